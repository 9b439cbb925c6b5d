//! What the host's own interfaces look like: addresses on which others may dial us, and word when they change.
//!
//! Does not know which of them are worth advertising; that is the engine's choice.

use std::net::IpAddr;

use futures_util::StreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use rtnetlink::MulticastGroup;
use tokio::task::JoinHandle;

use crate::routes::NetlinkError;

/// An address of one of the host's interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfaceAddress {
    /// Index of the interface.
    pub interface: u32,
    /// The address.
    pub address: IpAddr,
    /// Length of the on-link prefix around it.
    pub prefix_length: u8,
}

impl InterfaceAddress {
    /// Reads one from a netlink message; `None` for what nobody can dial: loopback, link-local, tentative, deprecated.
    pub(crate) fn dialable(message: &AddressMessage) -> Option<Self> {
        if message.header.scope != AddressScope::Universe
            || !matches!(
                message.header.family,
                AddressFamily::Inet | AddressFamily::Inet6
            )
        {
            return None;
        }
        let mut local = None;
        let mut address = None;
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(ip) => local = Some(*ip),
                AddressAttribute::Address(ip) => address = Some(*ip),
                AddressAttribute::Flags(flags)
                    if flags.intersects(
                        AddressFlags::Tentative
                            | AddressFlags::Deprecated
                            | AddressFlags::Dadfailed,
                    ) =>
                {
                    return None;
                }
                _ => {}
            }
        }
        // On a point-to-point interface `Address` is the other end.
        let address = local.or(address)?;
        (!address.is_loopback() && !address.is_unspecified()).then_some(Self {
            interface: message.header.index,
            address,
            prefix_length: message.header.prefix_len,
        })
    }
}

/// The name of an interface; its index in words if it is gone.
pub fn interface_name(index: u32) -> String {
    let name = nix::net::if_::if_indextoname(index).ok();
    let name = name.and_then(|name| name.into_string().ok());
    name.unwrap_or_else(|| format!("interface {index}"))
}

/// Hears from the kernel that links, addresses or routes of the host have changed.
pub struct Monitor {
    messages: Box<dyn futures_util::Stream<Item = ()> + Send + Unpin>,
    task: JoinHandle<()>,
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor").finish_non_exhaustive()
    }
}

impl Monitor {
    /// Subscribes to the kernel's link and address groups. Runs on the current tokio runtime.
    pub fn subscribe() -> Result<Self, NetlinkError> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
        ];
        let (connection, _handle, messages) =
            rtnetlink::new_multicast_connection(&groups).map_err(NetlinkError::Connect)?;
        let task = tokio::spawn(connection);
        Ok(Self {
            messages: Box::new(messages.map(|_| ())),
            task,
        })
    }

    /// Waits for the next change. What changed is found by scanning: bursts are common and messages can be lost.
    pub async fn changed(&mut self) {
        if self.messages.next().await.is_none() {
            // The connection is gone: nothing will be told any more, so neither is the caller.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}
