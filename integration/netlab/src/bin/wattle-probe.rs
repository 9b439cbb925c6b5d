//! The prober as a program: `wattle-probe echo ADDR:PORT`, and
//! `wattle-probe run SRC DST:PORT INTERVAL_US --seconds N [--json]`.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use wattle_netlab::probe;

const USAGE: &str = "usage: wattle-probe echo ADDR:PORT
       wattle-probe run SRC DST:PORT INTERVAL_US --seconds N [--json]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match command(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wattle-probe: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn command(arguments: &[&str]) -> Result<()> {
    match arguments {
        ["echo", at] => {
            let at: SocketAddr = at
                .parse()
                .with_context(|| format!("`{at}` is no ADDR:PORT"))?;
            let socket = UdpSocket::bind(at).with_context(|| format!("cannot listen on {at}"))?;
            probe::echo(&socket, &AtomicBool::new(false))
        }
        ["run", from, to, interval, "--seconds", seconds, rest @ ..] => {
            let from: IpAddr = from
                .parse()
                .with_context(|| format!("`{from}` is no address"))?;
            let to: SocketAddr = to
                .parse()
                .with_context(|| format!("`{to}` is no ADDR:PORT"))?;
            let interval = Duration::from_micros(interval.parse().context("INTERVAL_US")?);
            let span = Duration::from_secs_f64(seconds.parse().context("--seconds")?);
            run(from, to, interval, span, rest.contains(&"--json"))
        }
        _ => bail!("{USAGE}"),
    }
}

fn run(from: IpAddr, to: SocketAddr, interval: Duration, span: Duration, json: bool) -> Result<()> {
    let socket = UdpSocket::bind((from, 0)).with_context(|| format!("cannot send from {from}"))?;
    let stop = AtomicBool::new(false);
    let report = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(span);
            stop.store(true, Ordering::Relaxed);
        });
        probe::stream(
            &socket,
            to,
            interval,
            &stop,
            &AtomicU64::new(0),
            &AtomicU64::new(0),
        )
    })?;
    if json {
        serde_json::to_writer(std::io::stdout(), &report)?;
    } else {
        use std::io::Write as _;
        writeln!(
            std::io::stdout(),
            "sent {}, lost {}, longest outage {:.0} ms, round trip {} us, ttl {:?}",
            report.sent,
            report.lost,
            report.outage_ms,
            report.rtt_us[0],
            report.ttl
        )?;
    }
    Ok(())
}
