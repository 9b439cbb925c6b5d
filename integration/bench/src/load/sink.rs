//! The sink: counts datagrams of the current run, and answers words on stdin.

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, MultiHeaders, recvmmsg, setsockopt, sockopt};

use crate::datagram::{LARGEST, Numbers};
use crate::flow::Flow;

/// Datagrams of one system call.
const BATCH: usize = 64;
/// Holds some 10,000 datagrams: a sink that waits for its core must not be what loses.
const SOCKET_BUFFER: usize = 16 << 20;

/// What arrived since the run began.
#[derive(Default)]
struct Run {
    number: u32,
    flows: BTreeMap<u32, Flow>,
    bytes: u64,
    /// Datagrams of other runs, or none of ours.
    strangers: u64,
}

pub(crate) fn sink(at: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind(at).with_context(|| format!("cannot bind {at}"))?;
    setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER)?;
    let mut buffers = vec![vec![0; LARGEST]; BATCH];
    let mut run = Run::default();
    let stdin = std::io::stdin();
    loop {
        let mut waited = [
            PollFd::new(socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut waited, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait"),
        }
        let [data, words] = waited.map(|end| end.any().unwrap_or(false));
        if data {
            receive(&socket, &mut buffers, &mut run)?;
        }
        if words && !answer(&stdin, &socket, &mut run)? {
            return Ok(());
        }
    }
}

fn receive(socket: &UdpSocket, buffers: &mut [Vec<u8>], run: &mut Run) -> Result<()> {
    let mut slices: Vec<[IoSliceMut<'_>; 1]> = buffers
        .iter_mut()
        .map(|buffer| [IoSliceMut::new(buffer)])
        .collect();
    let mut headers = MultiHeaders::<()>::preallocate(BATCH, None);
    let came = recvmmsg(
        socket.as_raw_fd(),
        &mut headers,
        slices.iter_mut(),
        MsgFlags::MSG_DONTWAIT,
        None,
    );
    let messages = match came {
        Ok(messages) => messages,
        Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNREFUSED) => return Ok(()),
        Err(error) => return Err(error).context("cannot receive"),
    };
    for message in messages {
        run.take(message.iovs().next().unwrap_or_default());
    }
    Ok(())
}

/// Does what a line on stdin asks; false when there will be no more.
fn answer(stdin: &std::io::Stdin, socket: &UdpSocket, run: &mut Run) -> Result<bool> {
    let mut line = String::new();
    if stdin.read_line(&mut line).context("cannot read stdin")? == 0 {
        return Ok(false);
    }
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        ["begin", number] => {
            *run = Run {
                number: number.parse().context("RUN is a number")?,
                ..Run::default()
            };
            say("{}");
        }
        ["report"] => say(&run.report(overrun(socket)?)),
        _ => anyhow::bail!("words are `begin RUN` and `report`, not {line:?}"),
    }
    Ok(true)
}

impl Run {
    fn take(&mut self, payload: &[u8]) {
        match Numbers::read(payload) {
            Some(numbers) if numbers.run == self.number => {
                self.bytes += payload.len() as u64;
                self.flows
                    .entry(numbers.flow)
                    .or_default()
                    .take(numbers.number);
            }
            _ => self.strangers += 1,
        }
    }

    fn report(&self, overrun: u64) -> String {
        let flows: Vec<String> = self
            .flows
            .iter()
            .map(|(number, flow)| {
                format!(
                    "\"{number}\":{{\"arrived\":{},\"doubled\":{},\"reordered\":{}}}",
                    flow.arrived, flow.doubled, flow.reordered
                )
            })
            .collect();
        let arrived: u64 = self.flows.values().map(|flow| flow.arrived).sum();
        format!(
            "{{\"run\":{},\"arrived\":{arrived},\"bytes\":{},\"strangers\":{},\"overrun\":{overrun},\"flows\":{{{}}}}}",
            self.number,
            self.bytes,
            self.strangers,
            flows.join(",")
        )
    }
}

/// Datagrams that this socket had no room for, since it was opened: lost here and not on the way.
fn overrun(socket: &UdpSocket) -> Result<u64> {
    let here = socket.local_addr()?;
    let table = if here.is_ipv4() { "udp" } else { "udp6" };
    let path = format!("/proc/thread-self/net/{table}");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let port = format!(":{:04X}", here.port());
    let ours = text.lines().skip(1).find(|line| {
        let local = line.split_whitespace().nth(1);
        local.is_some_and(|local| local.ends_with(&port))
    });
    let drops = ours.and_then(|line| line.split_whitespace().last());
    drops
        .and_then(|drops| drops.parse().ok())
        .with_context(|| format!("{path} does not list port {}", here.port()))
}

#[expect(clippy::print_stdout, reason = "the answer is what the program is for")]
fn say(line: &str) {
    println!("{line}");
}
