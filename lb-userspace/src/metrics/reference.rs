//! The manual of the metrics, written from the tables that pages are written from.

use std::fmt::Write;

use super::{
    families::GROUPS,
    family::{Family, Kind},
};

const INTRODUCTION: &str = "\
# Metrics

<!-- Written from lb-userspace/src/metrics; a test holds this page against it.
     Regenerate: POINTSMAN_BLESS=1 cargo test -p lb-userspace --lib metrics -->

`GET /metrics` on [`admin.listen`](configuration.md#admin), and on the admin socket, is for a
Prometheus server:

```yaml
admin: {listen: \"127.0.0.1:9900\"}
```

```yaml
# prometheus.yml
scrape_configs:
  - job_name: pointsman
    static_configs: [{targets: [\"lb1.example.net:9900\"]}]
rule_files: [alerts.yml]            # to start from: docs/alerts.yml
```

```sh
curl -s http://127.0.0.1:9900/metrics
curl -s --unix-socket /run/pointsman/admin.sock http://localhost/metrics
```

The page is in Prometheus's text format (0.0.4), or in OpenMetrics if the `Accept` header prefers
it. It has no series but of what is configured: what a reload removes is gone from the next page. A
page is made when it is asked for, from counters, not from flows or packets; of 4,096 servers it has
some 70,000 lines, and it delays neither packets, requests nor the control loop. Units are seconds and
bytes; names end in `_total` if they only grow.
";

/// The page `docs/metrics.md`.
#[must_use]
pub fn reference_markdown() -> String {
    let mut page = String::from(INTRODUCTION);
    for group in GROUPS {
        // Writing to a String does not fail.
        let _ = write!(page, "\n## {}\n\n{}\n\n", group.title, group.doc);
        page.push_str("| metric | type | labels | meaning |\n|---|---|---|---|\n");
        for family in group.families {
            write_family(&mut page, family);
        }
    }
    page
}

fn write_family(page: &mut String, family: &Family) {
    let kind = match family.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Info => "info",
        Kind::Histogram => "histogram",
    };
    let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
    let labels = if labels.is_empty() { "none".to_owned() } else { labels.join(", ") };
    let _ = writeln!(page, "| `{}` | {kind} | {labels} | {} |", family.full_name(), family.help);
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    #[test]
    fn the_manual_is_what_the_tables_say() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
        let expected = super::reference_markdown();
        if std::env::var_os("POINTSMAN_BLESS").is_some() {
            fs::write(&path, &expected).unwrap();
        }
        let found = fs::read_to_string(&path).unwrap_or_default();
        assert!(found == expected, "docs/metrics.md is stale: set POINTSMAN_BLESS=1");
    }
}
