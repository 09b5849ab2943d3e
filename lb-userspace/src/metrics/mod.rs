//! What a Prometheus server reads of the agent: the families of metrics, and a page of them.
//!
//! Pure but for [`process`]: a [`Reading`] in, text out. Nothing is kept between two pages, so a
//! series is there for as long as what it is of is configured, and a reload costs nothing here.
//! Every family is one entry of a table (`families`) that both the page and the manual
//! (`docs/metrics.md`) are written from. The text is `prometheus-client`'s.

mod families;
mod family;
pub mod process;
pub mod reading;
mod reference;

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, prometheus_text, text},
    registry::Registry,
};

pub use reading::Reading;
pub use reference::reference_markdown;

/// How a page is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposition {
    /// Prometheus's text format, version 0.0.4.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

/// Writes the page of a reading.
///
/// # Errors
/// If a sample can not be written, which is a fault of the tables.
pub fn page(reading: Reading, exposition: Exposition) -> Result<String, fmt::Error> {
    // Some 100 bytes a line: so that a page of tens of megabytes is not moved as it grows.
    let lines = 30 * (reading.servers.len() + reading.vips.len() + reading.frontends.len() + 10);
    let mut page = String::with_capacity(100 * lines);
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Page(reading)));
    match exposition {
        Exposition::Text => prometheus_text::encode(&mut page, &registry)?,
        Exposition::OpenMetrics => text::encode(&mut page, &registry)?,
    }
    Ok(page)
}

/// All families, of one reading.
#[derive(Debug)]
struct Page(Reading);

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = families::GROUPS.iter().flat_map(|group| group.families);
        families.try_for_each(|family| family.encode(&self.0, &mut encoder))
    }
}

#[cfg(test)]
mod tests;
