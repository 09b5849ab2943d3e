//! A family of metrics: what it is called, what it means, and its samples of a reading.

use std::{fmt, time::Duration};

use prometheus_client::{
    encoding::{
        DescriptorEncoder, EncodeLabel, EncodeLabelSet, LabelSetEncoder, MetricEncoder, NoLabelSet,
    },
    metrics::MetricType,
    registry::Unit,
};

use super::reading::Reading;
use crate::model::histogram::{BOUNDS_US, Histogram};

/// Families about one thing.
pub(super) struct Group {
    /// What they are about.
    pub(super) title: &'static str,
    /// What holds for all of them, for the manual.
    pub(super) doc: &'static str,
    pub(super) families: &'static [Family],
}

/// A family of metrics.
pub(super) struct Family {
    /// Its name, without what unit and kind append.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) unit: Option<Base>,
    /// The names of its labels.
    pub(super) labels: &'static [&'static str],
    /// One line, without quotes and backslashes, which formats escape differently.
    pub(super) help: &'static str,
    /// Its samples.
    pub(super) samples: fn(&Reading, &mut Samples<'_, '_>) -> fmt::Result,
}

/// How the samples of a family are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows, until what it is of begins anew.
    Counter,
    /// How much there is now.
    Gauge,
    /// Always 1: the labels are what is said.
    Info,
    /// How often something was how large, in classes that include those below.
    Histogram,
}

/// Units; there are no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    Bytes,
    Seconds,
}

impl Family {
    /// The name of its samples.
    pub(super) fn full_name(&self) -> String {
        let unit = match self.unit {
            Some(Base::Bytes) => "_bytes",
            Some(Base::Seconds) => "_seconds",
            None => "",
        };
        let kind = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        format!("{}{unit}{kind}", self.name)
    }

    pub(super) fn encode(
        &self,
        reading: &Reading,
        encoder: &mut DescriptorEncoder<'_>,
    ) -> fmt::Result {
        let unit = self.unit.map(|unit| match unit {
            Base::Bytes => Unit::Bytes,
            Base::Seconds => Unit::Seconds,
        });
        let kind = match self.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Info => MetricType::Info,
            Kind::Histogram => MetricType::Histogram,
        };
        let encoder = encoder.encode_descriptor(self.name, self.help, unit.as_ref(), kind)?;
        (self.samples)(reading, &mut Samples { family: self, encoder })
    }
}

/// Takes the samples of one family.
pub(super) struct Samples<'f, 'e> {
    family: &'f Family,
    encoder: MetricEncoder<'e>,
}

impl Samples<'_, '_> {
    /// One sample of whole things. `values` are those of the family's labels, in their order.
    pub(super) fn put(&mut self, values: &[&str], number: impl Into<u64>) -> fmt::Result {
        let (kind, number) = (self.family.kind, number.into());
        let labels = self.labels(values);
        match kind {
            Kind::Counter => {
                let mut sample = self.encoder.encode_family(&labels)?;
                sample.encode_counter::<NoLabelSet, u64, f64>(&number, None)
            }
            Kind::Gauge => self.encoder.encode_family(&labels)?.encode_gauge(&number),
            Kind::Info => self.encoder.encode_info(&labels),
            // It has more than a number.
            Kind::Histogram => Err(fmt::Error),
        }
    }

    /// The samples of one histogram of durations.
    pub(super) fn put_histogram(&mut self, values: &[&str], found: &Histogram) -> fmt::Result {
        let labels = self.labels(values);
        let bounds = BOUNDS_US.iter().map(|bound| seconds(*bound)).chain([f64::INFINITY]);
        let classes: Vec<(f64, u64)> = bounds.zip(found.counts).collect();
        let all = found.counts.iter().sum();
        let mut sample = self.encoder.encode_family(&labels)?;
        sample.encode_histogram::<NoLabelSet>(seconds(found.sum_us), all, &classes, None)
    }

    /// One sample in seconds.
    pub(super) fn put_seconds(&mut self, values: &[&str], seconds: f64) -> fmt::Result {
        let kind = self.family.kind;
        let labels = self.labels(values);
        let mut sample = self.encoder.encode_family(&labels)?;
        match kind {
            Kind::Counter => sample.encode_counter::<NoLabelSet, f64, f64>(&seconds, None),
            Kind::Gauge | Kind::Info => sample.encode_gauge(&seconds),
            Kind::Histogram => Err(fmt::Error),
        }
    }

    /// One sample for each, by the first label's value and number.
    pub(super) fn put_each<'a>(
        &mut self,
        samples: impl IntoIterator<Item = (&'a str, u64)>,
    ) -> fmt::Result {
        samples.into_iter().try_for_each(|(value, number)| self.put(&[value], number))
    }

    fn labels<'a>(&self, values: &'a [&'a str]) -> Labels<'a> {
        debug_assert_eq!(values.len(), self.family.labels.len(), "{}", self.family.name);
        Labels { names: self.family.labels, values }
    }
}

/// Of microseconds.
fn seconds(us: u64) -> f64 {
    Duration::from_micros(us).as_secs_f64()
}

/// Labels by name and value.
#[derive(Debug)]
struct Labels<'a> {
    names: &'static [&'static str],
    values: &'a [&'a str],
}

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let mut labels = self.names.iter().copied().zip(self.values.iter().copied());
        labels.try_for_each(|label| label.encode(encoder.encode_label()))
    }
}
