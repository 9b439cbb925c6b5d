//! The socket as quinn sees it: what follows each other leaves with one system call.
//!
//! Quinn hands out ten packets at a time, and a system call through the whole network stack costs more than sealing
//! them. So what it hands out is kept for a moment and what comes next is put behind it, as long as one send with
//! `UDP_SEGMENT` can take both. A task of its own sends what is kept as soon as nobody had anything to add while every
//! task that could run had its turn: nothing ever waits for a time.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

/// Most bytes of one send: an IPv4 packet with its headers has at most 65,535.
const MOST_BYTES: usize = 65_000;

/// A socket that joins sends.
pub(crate) struct JoiningSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    kept: Mutex<Kept>,
}

/// Equal packets on their way to one address; the last may be shorter.
#[derive(Default)]
struct Kept {
    to: Option<Way>,
    bytes: Vec<u8>,
    segment: usize,
    /// Who sends it, if it waits for something to be kept.
    sender: Option<Waker>,
}

/// What all packets of one send have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    destination: SocketAddr,
    source: Option<IpAddr>,
    ecn: Option<EcnCodepoint>,
}

impl JoiningSocket {
    pub(crate) fn new(inner: Arc<dyn AsyncUdpSocket>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            kept: Mutex::default(),
        })
    }

    /// Sends what is kept, for as long as it is polled.
    pub(crate) async fn send_kept(self: Arc<Self>) {
        let mut writable = Arc::clone(&self.inner).create_io_poller();
        let mut before = 0;
        poll_fn(|context| self.poll_kept(context, writable.as_mut(), &mut before)).await;
    }

    fn poll_kept(
        &self,
        context: &mut Context<'_>,
        mut writable: Pin<&mut dyn UdpPoller>,
        before: &mut usize,
    ) -> Poll<()> {
        let mut kept = self.kept();
        while !kept.bytes.is_empty() {
            if kept.bytes.len() != *before {
                // Whoever may have something to add goes first.
                *before = kept.bytes.len();
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            if kept.send(&*self.inner).is_err() {
                // An error here is one of the packets', which is lost like any other.
                let _writable = ready!(writable.as_mut().poll_writable(context));
            }
        }
        *before = 0;
        kept.sender = Some(context.waker().clone());
        Poll::Pending
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Sends it; what could not be sent but can be later stays.
    fn send(&mut self, socket: &dyn AsyncUdpSocket) -> io::Result<()> {
        let Some(way) = self.to else { return Ok(()) };
        let sent = socket.try_send(&Transmit {
            destination: way.destination,
            ecn: way.ecn,
            contents: &self.bytes,
            segment_size: (self.bytes.len() > self.segment).then_some(self.segment),
            src_ip: way.source,
        });
        if !is_later(&sent) {
            self.bytes.clear();
        }
        sent
    }

    /// Whether packets of this length to there can leave with what is kept. A single larger packet may be a probe for
    /// what the path carries, which the kernel refuses and which shall take no other with it.
    fn takes(&self, way: Way, length: usize, segment: usize, most_segments: usize) -> bool {
        self.bytes.is_empty()
            || (self.to == Some(way)
                && (segment == self.segment
                    || (length == segment
                        && segment < self.segment
                        && self.bytes.len() > self.segment))
                && self.bytes.len().is_multiple_of(self.segment)
                && self.bytes.len() + length <= MOST_BYTES
                && (self.bytes.len() + length).div_ceil(self.segment) <= most_segments)
    }

    fn put(&mut self, way: Way, packets: &[u8], segment: usize) {
        if self.bytes.is_empty() {
            self.to = Some(way);
            self.segment = segment;
        }
        self.bytes.extend_from_slice(packets);
        if let Some(sender) = self.sender.take() {
            sender.wake();
        }
    }
}

impl AsyncUdpSocket for JoiningSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let most_segments = self.inner.max_transmit_segments();
        let mut kept = self.kept();
        if most_segments == 1 && kept.bytes.is_empty() {
            return self.inner.try_send(transmit);
        }
        let way = Way {
            destination: transmit.destination,
            source: transmit.src_ip,
            ecn: transmit.ecn,
        };
        let packets = transmit.contents;
        let segment = transmit.segment_size.unwrap_or(packets.len());
        if !kept.takes(way, packets.len(), segment, most_segments) {
            let sent = kept.send(&*self.inner);
            if is_later(&sent) {
                return sent;
            }
        }
        kept.put(way, packets, segment);
        Ok(())
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(context, buffers, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

fn is_later(sent: &io::Result<()>) -> bool {
    matches!(sent, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

impl fmt::Debug for JoiningSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoiningSocket")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Wake;

    use super::*;

    const NEAR: &str = "192.0.2.1:443";
    const FAR: &str = "192.0.2.2:443";

    #[test]
    fn what_follows_each_other_leaves_at_once_when_nobody_adds_to_it() {
        let (socket, kernel) = pair(64);
        send(&socket, NEAR, 2_000, Some(1_000));
        send(&socket, NEAR, 1_000, None);
        send(&socket, NEAR, 400, None);
        assert_eq!(kernel.sent(), []);
        let (mut before, mut writable) = (0, kernel.clone().create_io_poller());
        let mut poll = || {
            let waker = Waker::from(Arc::new(Nobody));
            let mut context = Context::from_waker(&waker);
            socket.poll_kept(&mut context, writable.as_mut(), &mut before)
        };
        assert!(poll().is_pending());
        assert_eq!(kernel.sent(), [], "others go first");
        assert!(poll().is_pending());
        assert_eq!(kernel.sent(), [(NEAR.to_owned(), 3_400, Some(1_000))]);
    }

    #[test]
    fn what_one_send_cannot_take_is_sent_after_what_came_before() {
        let (socket, kernel) = pair(4);
        // Another address, a larger packet, a shorter one behind what may be a probe, more than there may be.
        send(&socket, NEAR, 1_000, None);
        send(&socket, FAR, 1_000, None);
        send(&socket, FAR, 1_200, None);
        send(&socket, FAR, 600, None);
        send(&socket, FAR, 1_200, Some(600));
        send(&socket, FAR, 300, None);
        send(&socket, FAR, 300, None);
        send(&socket, FAR, 1_200, Some(300));
        send(&socket, FAR, 300, None);
        let expected = [
            (NEAR, 1_000, None),
            (FAR, 1_000, None),
            (FAR, 1_200, None),
            (FAR, 2_100, Some(600)),
            (FAR, 300, None),
            (FAR, 1_200, Some(300)),
        ];
        let expected = expected.map(|(to, length, segment)| (to.to_owned(), length, segment));
        assert_eq!(kernel.sent(), expected);
    }

    #[test]
    fn what_the_kernel_does_not_take_is_kept_and_the_next_one_refused() {
        let (socket, kernel) = pair(64);
        send(&socket, NEAR, 1_000, None);
        kernel.refuse(true);
        let refused = socket.try_send(&transmit(FAR, &[0; 1_000], None));
        assert!(is_later(&refused));
        kernel.refuse(false);
        send(&socket, FAR, 1_000, None);
        assert_eq!(kernel.sent(), [(NEAR.to_owned(), 1_000, None)]);
    }

    #[test]
    fn a_kernel_without_segmentation_gets_every_packet_at_once() {
        let (socket, kernel) = pair(1);
        send(&socket, NEAR, 1_000, None);
        send(&socket, NEAR, 1_000, None);
        assert_eq!(kernel.sent().len(), 2);
    }

    type Sent = (String, usize, Option<usize>);

    /// Stands for the kernel: notes what is sent.
    #[derive(Debug)]
    struct Kernel {
        sent: Mutex<(bool, Vec<Sent>)>,
        segments: usize,
    }

    impl Kernel {
        fn sent(&self) -> Vec<Sent> {
            self.sent.lock().unwrap().1.clone()
        }

        fn refuse(&self, refuses: bool) {
            self.sent.lock().unwrap().0 = refuses;
        }
    }

    impl AsyncUdpSocket for Kernel {
        fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
            Box::pin(Always)
        }

        fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
            let mut sent = self.sent.lock().unwrap();
            if sent.0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let to = transmit.destination.to_string();
            sent.1
                .push((to, transmit.contents.len(), transmit.segment_size));
            Ok(())
        }

        fn poll_recv(
            &self,
            _context: &mut Context<'_>,
            _buffers: &mut [IoSliceMut<'_>],
            _meta: &mut [RecvMeta],
        ) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            Ok(NEAR.parse().unwrap())
        }

        fn max_transmit_segments(&self) -> usize {
            self.segments
        }
    }

    #[derive(Debug)]
    struct Always;

    impl UdpPoller for Always {
        fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    struct Nobody;

    impl Wake for Nobody {
        fn wake(self: Arc<Self>) {}
    }

    fn pair(segments: usize) -> (Arc<JoiningSocket>, Arc<Kernel>) {
        let kernel = Arc::new(Kernel {
            sent: Mutex::default(),
            segments,
        });
        (JoiningSocket::new(kernel.clone()), kernel)
    }

    fn send(socket: &JoiningSocket, to: &str, length: usize, segment: Option<usize>) {
        socket
            .try_send(&transmit(to, &vec![0; length], segment))
            .unwrap();
    }

    fn transmit<'a>(to: &str, contents: &'a [u8], segment: Option<usize>) -> Transmit<'a> {
        Transmit {
            destination: to.parse().unwrap(),
            ecn: None,
            contents,
            segment_size: segment,
            src_ip: None,
        }
    }
}
