//! Protecting what is sent: sessions between nodes (boringtun behind its guards), their fast channel, link keys for the
//! headers of relay frames, how large a packet gets to a peer, and when to dial whom.
//!
//! Pure: bytes in, bytes out, time handed in. (boringtun reads a clock of its own for its session timers; everything above
//! [`Session`] does not.) Knows nothing of links, routes or sockets.

mod channel;
mod dial;
mod link_key;
mod local;
mod message;
mod null;
mod path_mtu;
mod replay;
mod session;
mod shares;

pub use channel::{ChannelKeyBytes, CipherCosts};
pub use dial::{DialRole, Dialer};
pub use link_key::{FrameRefusal, KeyBytes, LinkKeys, Offer};
pub use local::{Initiator, Local};
pub use message::{CHANNEL_HEADER, CHANNEL_TYPE, DATA_OVERHEAD, MIN_BUFFER, Message};
pub use path_mtu::{MIN_PATH_MTU, PathMtu, SizeProbe};
pub use replay::ReplayWindow;
pub use session::{CipherKind, Opened, Outcome, Refusal, Rekey, Session};
pub use shares::Shares;
