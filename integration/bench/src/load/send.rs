//! The sender: bursts of a flow at the times that the rate asks for.

use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sys::prctl::set_timerslack;
use nix::sys::socket::{MsgFlags, MultiHeaders, sendmmsg, setsockopt, sockopt};

use crate::datagram::{Numbers, payload_of};

/// Datagrams of one system call: half a millisecond's worth, but no more than a sender in practice would hand over at once.
const MOST_IN_BURST: u64 = 32;
const BURSTS_PER_SECOND: f64 = 2000.0;
/// Larger than any burst, so that the sender's own socket is never what loses.
const SOCKET_BUFFER: usize = 4 << 20;

/// What is to be sent.
pub(crate) struct Order {
    pub(crate) target: SocketAddr,
    pub(crate) run: u32,
    pub(crate) packet: usize,
    pub(crate) rate: f64,
    pub(crate) count: u64,
    pub(crate) flows: u32,
}

/// One flow: a source port, and how far its numbers are.
struct Lane {
    socket: UdpSocket,
    next: u64,
}

pub(crate) fn send(order: &Order) -> Result<()> {
    ensure!(
        order.rate > 0.0 && order.count > 0 && order.flows > 0,
        "RATE, COUNT and FLOWS are above 0"
    );
    let payload = payload_of(order.packet, order.target)?;
    set_timerslack(1).context("cannot ask for exact timers")?;
    let mut lanes = (0..order.flows)
        .map(|_| lane(order.target))
        .collect::<Result<Vec<_>>>()?;
    let begun = Instant::now();
    let refused = run(order, payload, &mut lanes, begun)?;
    report(&lanes, refused, begun.elapsed());
    Ok(())
}

fn lane(target: SocketAddr) -> Result<Lane> {
    let any = if target.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any).context("cannot open a socket")?;
    setsockopt(&socket, sockopt::SndBufForce, &SOCKET_BUFFER)?;
    socket
        .connect(target)
        .with_context(|| format!("no way to {target}"))?;
    Ok(Lane { socket, next: 0 })
}

/// Sends until the count is reached, or until twice the time for it has passed; returns how often the kernel had no room.
fn run(order: &Order, payload: usize, lanes: &mut [Lane], begun: Instant) -> Result<u64> {
    let burst = ((order.rate / BURSTS_PER_SECOND) as u64 + 1).min(MOST_IN_BURST);
    let mut buffers = vec![vec![0; payload]; burst as usize];
    let patience = Duration::from_secs_f64(2.0 * order.count as f64 / order.rate + 1.0);
    let (mut sent, mut refused, mut turn) = (0, 0, 0);
    while sent < order.count && begun.elapsed() < patience {
        let due = ((begun.elapsed().as_secs_f64() * order.rate) as u64 + 1).min(order.count);
        if sent >= due {
            let next = (sent + burst - 1) as f64 / order.rate;
            std::thread::sleep(Duration::from_secs_f64(next).saturating_sub(begun.elapsed()));
            continue;
        }
        let lane_number = turn % lanes.len();
        let size = (due - sent).min(burst) as usize;
        let went = hand_over(
            order.run,
            lane_number,
            &mut lanes[lane_number],
            &mut buffers[..size],
        )?;
        refused += u64::from(went == 0);
        sent += went;
        turn += 1;
    }
    Ok(refused)
}

/// Hands one burst of a flow to the kernel and returns how many it took.
fn hand_over(run: u32, flow: usize, lane: &mut Lane, buffers: &mut [Vec<u8>]) -> Result<u64> {
    for (buffer, number) in buffers.iter_mut().zip(lane.next..) {
        let flow = flow as u32;
        Numbers { run, flow, number }.write(buffer);
    }
    let slices: Vec<[IoSlice<'_>; 1]> = buffers
        .iter()
        .map(|buffer| [IoSlice::new(buffer)])
        .collect();
    let nowhere: Vec<Option<()>> = vec![None; slices.len()];
    let mut headers = MultiHeaders::preallocate(slices.len(), None);
    let socket = lane.socket.as_raw_fd();
    let taken = match sendmmsg(
        socket,
        &mut headers,
        &slices,
        nowhere,
        [],
        MsgFlags::empty(),
    ) {
        Ok(results) => results.count() as u64,
        // Full queues, and the other end not up yet: the open loop goes on.
        Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::ECONNREFUSED | Errno::EINTR) => 0,
        Err(error) => return Err(error).context("cannot send"),
    };
    lane.next += taken;
    Ok(taken)
}

#[expect(clippy::print_stdout, reason = "the report is what the program is for")]
fn report(lanes: &[Lane], refused: u64, took: Duration) {
    let flows: Vec<String> = lanes.iter().map(|lane| lane.next.to_string()).collect();
    let sent: u64 = lanes.iter().map(|lane| lane.next).sum();
    println!(
        "{{\"sent\":{sent},\"seconds\":{:.6},\"refused\":{refused},\"flows\":[{}]}}",
        took.as_secs_f64(),
        flows.join(",")
    );
}
