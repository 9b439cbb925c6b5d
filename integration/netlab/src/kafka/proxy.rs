//! A proxy before a broker, which cuts connections where chance rarely does: at the end of a transaction, so that its
//! producer cannot know how it ended. It knows of Kafka how messages are framed and which request ends a transaction.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The API key of `EndTxn`.
const END_TXN: [u8; 2] = 26_i16.to_be_bytes();

/// Where in a message its correlation id is: after the key and the version of a request, at the beginning of a reply.
const ID_IN_REQUEST: usize = 4;
const ID_IN_REPLY: usize = 0;

/// No message of a test is larger.
const MAX_MESSAGE: usize = 64 << 20;

/// What does not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The request: the broker never hears of it.
    Request,
    /// The reply: the broker did as it was told, and nobody hears of that.
    Reply,
}

/// How long the client is without a broker then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outage {
    /// It may connect again at once.
    Brief,
    /// Until [`Proxy::heal`].
    Lasting,
}

/// A proxy on a port of its own. Everything passes until a cut is asked for.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    wire: Arc<Wire>,
}

/// What the threads of all connections share.
#[derive(Debug, Default)]
struct Wire(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Where the broker listens.
    broker: u16,
    wanted: Option<(Cut, Outage)>,
    cuts: u32,
    is_away: bool,
    has_ended: bool,
    open: Vec<TcpStream>,
}

impl Proxy {
    /// Listens; the broker is told of later.
    pub(super) fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let wire = Arc::new(Wire::default());
        let shared = Arc::clone(&wire);
        std::thread::spawn(move || shared.accept(&listener));
        Ok(Self { port, wire })
    }

    /// The port of the clients' broker.
    pub(super) const fn port(&self) -> u16 {
        self.port
    }

    /// Connections go to this port from here on.
    pub(super) fn lead_to(&self, broker: u16) {
        self.wire.state().broker = broker;
    }

    /// `host:port` for clients.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Cuts the next end of a transaction.
    pub fn cut(&self, what: Cut, outage: Outage) {
        self.wire.state().wanted = Some((what, outage));
    }

    /// How often it has cut.
    pub fn cuts(&self) -> u32 {
        self.wire.state().cuts
    }

    /// Ends an outage that lasts.
    pub fn heal(&self) {
        self.wire.state().is_away = false;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.wire.state().has_ended = true;
        // Wakes the thread that accepts, which ends.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

/// The reply that shall not arrive, by its correlation id.
type Unwelcome = Mutex<Option<([u8; 4], Outage)>>;

impl Wire {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming().map_while(Result::ok) {
            let broker = {
                let state = self.state();
                if state.has_ended {
                    return;
                }
                state.broker
            };
            // A client that is let go comes again.
            if let Ok(broker) = TcpStream::connect((Ipv4Addr::LOCALHOST, broker)) {
                let _ = self.join(client, broker);
            }
        }
    }

    /// Two threads carry messages, one in each direction, until one of them fails. In an outage nobody is joined, and one that
    /// begins later lets go of whoever was.
    fn join(self: &Arc<Self>, client: TcpStream, broker: TcpStream) -> io::Result<()> {
        for end in [&client, &broker] {
            end.set_nodelay(true)?;
        }
        let ends = [client.try_clone()?, broker.try_clone()?];
        if !self.admit([client.try_clone()?, broker.try_clone()?]) {
            return Ok(());
        }
        let unwelcome = Arc::new(Unwelcome::default());
        let [requests, replies] = [(); 2].map(|()| (Arc::clone(self), Arc::clone(&unwelcome)));
        std::thread::spawn(move || {
            let (wire, unwelcome) = requests;
            let _ = wire.carry_requests(&client, &broker, &unwelcome);
            close([&client, &broker]);
        });
        std::thread::spawn(move || {
            let (wire, unwelcome) = replies;
            let [client, broker] = ends;
            let _ = wire.carry_replies(&broker, &client, &unwelcome);
            close([&client, &broker]);
        });
        Ok(())
    }

    /// Takes up a connection that an outage will close; says no while one lasts.
    fn admit(&self, ends: [TcpStream; 2]) -> bool {
        let mut state = self.state();
        if !state.is_away {
            state.open.extend(ends);
        }
        !state.is_away
    }

    fn carry_requests(
        &self,
        from: &TcpStream,
        mut to: &TcpStream,
        unwelcome: &Unwelcome,
    ) -> io::Result<()> {
        loop {
            let request = message(from)?;
            if request.starts_with(&END_TXN) {
                match self.take_wanted() {
                    None => {}
                    Some((Cut::Request, outage)) => {
                        self.end(outage);
                        return Ok(());
                    }
                    Some((Cut::Reply, outage)) => {
                        let id = correlation(&request, ID_IN_REQUEST)?;
                        *unwelcome.lock().unwrap_or_else(PoisonError::into_inner) =
                            Some((id, outage));
                    }
                }
            }
            to.write_all(&framed(&request))?;
        }
    }

    fn carry_replies(
        &self,
        from: &TcpStream,
        mut to: &TcpStream,
        unwelcome: &Unwelcome,
    ) -> io::Result<()> {
        loop {
            let reply = message(from)?;
            let id = correlation(&reply, ID_IN_REPLY)?;
            let cut = *unwelcome.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, outage)) = cut.filter(|(unwelcome, _)| *unwelcome == id) {
                self.end(outage);
                return Ok(());
            }
            to.write_all(&framed(&reply))?;
        }
    }

    fn take_wanted(&self) -> Option<(Cut, Outage)> {
        self.state().wanted.take()
    }

    /// Counts a cut, and lets everybody go if it shall last. The connection itself ends with its threads.
    fn end(&self, outage: Outage) {
        let mut state = self.state();
        state.cuts += 1;
        if outage == Outage::Lasting {
            state.is_away = true;
            close(&std::mem::take(&mut state.open));
        }
    }
}

fn close<'a>(ends: impl IntoIterator<Item = &'a TcpStream>) {
    for end in ends {
        // The other side may have been faster.
        let _ = end.shutdown(Shutdown::Both);
    }
}

/// A message without its length, which comes before it.
fn message(mut from: &TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_MESSAGE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length];
    from.read_exact(&mut message)?;
    Ok(message)
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = message.len() as u32;
    [&length.to_be_bytes(), message].concat()
}

fn correlation(message: &[u8], at: usize) -> io::Result<[u8; 4]> {
    let id = message.get(at..).and_then(|rest| rest.first_chunk());
    id.copied().ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_lets_go_of_everybody_and_takes_up_nobody() -> io::Result<()> {
        let wire = Wire::default();
        let [near, mut far] = joined()?;
        assert!(wire.admit([near.try_clone()?, near]));
        wire.end(Outage::Lasting);
        assert_eq!(far.read(&mut [0])?, 0, "it was let go");
        let [near, _far] = joined()?;
        assert!(!wire.admit([near.try_clone()?, near]));
        assert!(wire.state().open.is_empty());
        Ok(())
    }

    /// Both ends of a connection.
    fn joined() -> io::Result<[TcpStream; 2]> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let near = TcpStream::connect(listener.local_addr()?)?;
        Ok([near, listener.accept()?.0])
    }
}
