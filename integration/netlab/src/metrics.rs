//! The figures of an agent in Prometheus' text format, read for tests.

use anyhow::{Context, Result, ensure};

/// Figures that an agent showed at one moment.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Vec<Figure>);

#[derive(Debug, Clone)]
struct Figure {
    name: String,
    labels: String,
    value: u64,
}

impl Metrics {
    /// Reads the text; figures that are no whole numbers are refused.
    pub fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let figures = lines.map(Figure::parse).collect::<Result<Vec<_>>>()?;
        ensure!(!figures.is_empty(), "no figures in {text:?}");
        Ok(Self(figures))
    }

    /// The sum of all figures of a name whose labels hold `label`; zero if there is none.
    pub fn sum(&self, name: &str, label: &str) -> u64 {
        let found = self.0.iter().filter(|figure| figure.name == name);
        let found = found.filter(|figure| figure.labels.contains(label));
        found.map(|figure| figure.value).sum()
    }

    /// Checks that nothing got lost without a name (`docs/operations.md`); for an agent without QUIC, whose threads count by
    /// themselves.
    pub fn balance(&self) -> Result<()> {
        let metrics = self;
        let worker = |name: &str| metrics.get(&format!("wattle_worker_{name}_packets_total"));
        let host = |name: &str| metrics.get(&format!("wattle_host_{name}_total"));
        let dropped = |from: &str| {
            let label = format!("from=\"{from}\"");
            metrics.sum("wattle_worker_dropped_packets_total", &label)
        };
        let sum = |names: &[&str]| names.iter().map(|name| worker(name)).sum::<Result<u64>>();
        let waiting = metrics.get("wattle_worker_waiting_packets")?;

        let tun_out = worker("sent")? + dropped("tun");
        let delivered = ["tun_tx", "relayed", "forwarded", "control_rx", "session_rx"];
        let wire_out = sum(&delivered)? + dropped("wire");
        let (tun_in, wire_in) = (worker("tun_rx")?, worker("udp_rx")?);
        ensure!(
            tun_in >= tun_out
                && wire_in >= wire_out
                && tun_in - tun_out + wire_in - wire_out == waiting,
            "{tun_in} from the device became {tun_out}, {wire_in} from the wire {wire_out}, {waiting} wait: {metrics:?}"
        );
        let sent = sum(&["sent", "relayed", "forwarded", "control_tx", "session_tx"])?;
        ensure!(
            sent == worker("udp_tx")?,
            "{sent} datagrams made: {metrics:?}"
        );

        let unsent = metrics.sum("wattle_host_udp_unsent_packets_total", "");
        let out = host("udp_sent_packets")? + unsent;
        ensure!(
            out == worker("udp_tx")?,
            "{out} left the sockets: {metrics:?}"
        );
        ensure!(
            host("udp_received_packets")? == wire_in,
            "the sockets received others: {metrics:?}"
        );
        let written = host("tun_written_parts")?
            + host("tun_queue_full_packets")?
            + host("tun_refused_packets")?;
        ensure!(
            written == worker("tun_tx")? + worker("answer")?,
            "{written} written to the device: {metrics:?}"
        );
        Ok(())
    }

    /// The figure of a name that has no labels.
    pub fn get(&self, name: &str) -> Result<u64> {
        let found = self.0.iter().find(|figure| figure.name == name);
        Ok(found.with_context(|| format!("no figure {name}"))?.value)
    }
}

impl Figure {
    fn parse(line: &str) -> Result<Self> {
        let malformed = || format!("no figure: {line:?}");
        let (series, value) = line.rsplit_once(' ').with_context(malformed)?;
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        Ok(Self {
            name: name.to_owned(),
            labels: labels.strip_suffix('}').with_context(malformed)?.to_owned(),
            value: value.parse().with_context(malformed)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_by_name_and_label() {
        let text = "# TYPE a counter\na_total 3\nb{from=\"tun\",reason=\"x\"} 4\nb{from=\"wire\",reason=\"x\"} 5\n# EOF\n";
        let metrics = Metrics::parse(text).unwrap();
        assert_eq!(metrics.get("a_total").unwrap(), 3);
        assert_eq!(metrics.sum("b", "reason=\"x\""), 9);
        assert_eq!(metrics.sum("b", "from=\"tun\""), 4);
        assert_eq!(metrics.sum("c", ""), 0);
        assert!(metrics.get("c").is_err());
        for bad in ["", "a", "a b", "a{x 1"] {
            assert!(Metrics::parse(bad).is_err(), "{bad:?}");
        }
    }
}
