//! Metrics in the text format of Prometheus: how counters are named and written, and a small HTTP server for them.
//!
//! The server answers `GET /metrics` on loopback and nothing else. What is counted is the business of the rooms.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use wattle_control::{Reply, Request, Role};

use crate::query::{Caller, EngineHandle};

/// Scrapes served at once.
const MAX_SCRAPES: usize = 8;
/// A scrape takes no longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a request's head; scrapers send a few hundred.
const MAX_HEAD: usize = 4 << 10;

/// Whether a figure only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It only grows; its name ends with `_total`.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// One figure.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    /// `wattle_<room>_<noun>_<unit>`, without `_total`.
    pub(crate) name: String,
    /// One sentence.
    pub(crate) help: &'static str,
    /// Labels, few and bounded.
    pub(crate) labels: Vec<(String, String)>,
    /// Whether it only grows.
    pub(crate) kind: Kind,
    /// Its value.
    pub(crate) value: u64,
}

/// Figures taken at one moment, those of one name side by side.
#[derive(Debug, Default)]
pub(crate) struct Snapshot(Vec<Sample>);

impl Snapshot {
    /// Adds a counter.
    pub(crate) fn counter(&mut self, name: impl Into<String>, help: &'static str, value: u64) {
        self.add(name.into(), help, Vec::new(), Kind::Counter, value);
    }

    /// Adds a gauge.
    pub(crate) fn gauge(&mut self, name: impl Into<String>, help: &'static str, value: u64) {
        self.add(name.into(), help, Vec::new(), Kind::Gauge, value);
    }

    /// Adds one of several figures of a name, told apart by labels.
    pub(crate) fn add(
        &mut self,
        name: String,
        help: &'static str,
        labels: Vec<(String, String)>,
        kind: Kind,
        value: u64,
    ) {
        self.0.push(Sample {
            name,
            help,
            labels,
            kind,
            value,
        });
    }

    /// The figures as text.
    pub(crate) fn into_text(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        text::encode(&mut text, &registry).expect("a String takes every write");
        text
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for family in self.0.chunk_by(|a, b| a.name == b.name) {
            let first = &family[0];
            let kind = match first.kind {
                Kind::Counter => ConstCounter::<u64>::new(0).metric_type(),
                Kind::Gauge => ConstGauge::<u64>::new(0).metric_type(),
            };
            let mut metric = encoder.encode_descriptor(&first.name, first.help, None, kind)?;
            for sample in family {
                if sample.labels.is_empty() {
                    // One figure of its name: an empty pair of braces would be no label set.
                    sample.encode(metric)?;
                    break;
                }
                sample.encode(metric.encode_family(&sample.labels)?)?;
            }
        }
        Ok(())
    }
}

impl Sample {
    fn encode(&self, to: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        match self.kind {
            Kind::Counter => ConstCounter::new(self.value).encode(to),
            Kind::Gauge => ConstGauge::new(self.value).encode(to),
        }
    }
}

/// Why metrics cannot be served.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot serve metrics on {address}: {source}; choose another port with `metrics` in wattled.toml, \
     or leave it out to serve none"
)]
pub struct MetricsError {
    address: SocketAddr,
    source: io::Error,
}

/// Listens for scrapes.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, MetricsError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| MetricsError { address, source })
}

/// Serves scrapes for ever.
pub(crate) async fn serve(listener: TcpListener, engine: EngineHandle) {
    let places = Arc::new(Semaphore::new(MAX_SCRAPES));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            continue;
        };
        let engine = engine.clone();
        tokio::spawn(async move {
            let _ = tokio::time::timeout(PATIENCE, serve_scrape(stream, engine)).await;
            drop(place);
        });
    }
}

async fn serve_scrape(mut stream: TcpStream, engine: EngineHandle) -> io::Result<()> {
    let head = read_head(&mut stream).await?;
    let (status, body) = match request_line(&head) {
        Some(("GET", "/metrics")) => scrape(&engine).await,
        Some(("GET", _)) => ("404 Not Found", "the metrics are at /metrics\n".to_owned()),
        Some(_) => (
            "405 Method Not Allowed",
            "only GET is answered\n".to_owned(),
        ),
        None => ("400 Bad Request", "this is not HTTP\n".to_owned()),
    };
    let response = format!(
        "HTTP/1.1 {status}\r\n\
         Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await
}

async fn scrape(engine: &EngineHandle) -> (&'static str, String) {
    let scraper = Caller {
        uid: 0,
        role: Role::Reader,
    };
    match engine.ask(Request::Metrics {}, scraper).await {
        Reply::Metrics(report) => ("200 OK", report.text),
        _ => ("503 Service Unavailable", "the agent is busy\n".to_owned()),
    }
}

async fn read_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut piece = [0; 512];
    while head.len() < MAX_HEAD && !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut piece).await? {
            0 => break,
            length => head.extend_from_slice(&piece[..length]),
        }
    }
    Ok(head)
}

fn request_line(head: &[u8]) -> Option<(&str, &str)> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    words
        .next()?
        .starts_with("HTTP/1.")
        .then_some((method, target.split('?').next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_one_name_stand_together_with_help_and_type() {
        let mut snapshot = Snapshot::default();
        snapshot.gauge("wattle_link_up_links", "Links in use.", 2);
        for (reason, value) in [("no_route", 3), ("spoofed", 0)] {
            let labels = vec![("reason".to_owned(), reason.to_owned())];
            let name = "wattle_worker_dropped_packets".to_owned();
            snapshot.add(name, "Dropped packets.", labels, Kind::Counter, value);
        }
        let text = snapshot.into_text();
        assert!(
            text.contains("# TYPE wattle_link_up_links gauge\nwattle_link_up_links 2\n"),
            "{text}"
        );
        assert_eq!(
            text.matches("# TYPE wattle_worker_dropped_packets counter")
                .count(),
            1
        );
        assert!(
            text.contains("wattle_worker_dropped_packets_total{reason=\"no_route\"} 3\n"),
            "{text}"
        );
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn only_http_is_a_request() {
        assert_eq!(
            request_line(b"GET /metrics?x HTTP/1.1\r\nA: b"),
            Some(("GET", "/metrics"))
        );
        for bad in [
            &b""[..],
            b"GET",
            b"GET /",
            b"GET / SMTP\r\n",
            b"\xff\xff / HTTP/1.1",
        ] {
            assert_eq!(request_line(bad), None, "{bad:?}");
        }
    }
}
