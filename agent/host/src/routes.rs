//! What we put into the kernel's network configuration: the device's state, its addresses, routes in our own
//! table, and the two rules that lead there.
//!
//! Everything we add carries our protocol number, and only what carries it, in our table or on our device, is ever
//! removed. Packets of the agent itself carry `MARK` and pass the rules by, so the underlay never loops into the mesh.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressProtocol,
};
use netlink_packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use rtnetlink::{Handle, IpVersion, LinkUnspec, RouteMessageBuilder};
use tokio::task::JoinHandle;
use wattle_model::Prefix;

use crate::InterfaceAddress;

/// The protocol number of our routes, rules and addresses: unassigned in `rtnetlink.h` and in iproute2's `rt_protos`.
pub const PROTOCOL: u8 = 157;

/// The default routing table, also the priority of the rules that lead to it.
pub const TABLE: u32 = 5740;

/// The mark on the agent's own datagrams: `Wt`, with which the rules let them pass.
pub const MARK: u32 = 0x5774;

const EEXIST: i32 = nix::libc::EEXIST;

/// Why the kernel's configuration could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No netlink socket.
    #[error("cannot open a netlink socket: {0}")]
    Connect(#[source] io::Error),
    /// The kernel refused for want of privilege.
    #[error(
        "the kernel refused to {0}: permission denied; run as root or give the agent CAP_NET_ADMIN"
    )]
    Privilege(String),
    /// The kernel refused.
    #[error("cannot {what}: {source}")]
    Request {
        /// What was asked.
        what: String,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
}

/// What shall be in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The node's own addresses, as host prefixes on the device.
    pub addresses: BTreeSet<IpAddr>,
    /// Prefixes that lead into the mesh.
    pub routes: BTreeSet<Prefix>,
}

/// A netlink connection on the current tokio runtime.
#[derive(Debug)]
pub struct Netlink {
    handle: Handle,
    task: JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Netlink {
    /// Opens the connection.
    pub fn connect() -> Result<Self, NetlinkError> {
        let (connection, handle, _messages) =
            rtnetlink::new_connection().map_err(NetlinkError::Connect)?;
        Ok(Self {
            handle,
            task: tokio::spawn(connection),
        })
    }

    /// All addresses on which others might dial this host, those of the interface `except` left out.
    pub async fn dialable_addresses(
        &self,
        except: Option<u32>,
    ) -> Result<BTreeSet<InterfaceAddress>, NetlinkError> {
        let all = self.dump_addresses(None).await?;
        Ok(all
            .iter()
            .filter_map(InterfaceAddress::dialable)
            .filter(|found| Some(found.interface) != except)
            .collect())
    }

    /// Sets the MTU of a device and brings it up, without the kernel inventing link-local addresses for it.
    pub async fn bring_up(&self, interface: u32, mtu: u16) -> Result<(), NetlinkError> {
        let quiet = LinkUnspec::new_with_index(interface)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(
                vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)],
            )]))
            .build();
        // Fails where IPv6 is disabled; there is nothing to silence there.
        let _no_ipv6 = self.handle.link().set(quiet).execute().await;
        let message = LinkUnspec::new_with_index(interface)
            .mtu(mtu.into())
            .up()
            .build();
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .map_err(refused(|| {
                format!("set MTU {mtu} and bring interface {interface} up")
            }))
    }

    /// The prefixes of our routes in `table` that lead to `interface`.
    pub async fn routes(
        &self,
        interface: u32,
        table: u32,
    ) -> Result<BTreeSet<Prefix>, NetlinkError> {
        let all = self.dump_routes().await?;
        let ours = all.iter().filter(|route| is_ours(route, table));
        let ours = ours.filter(|route| oif(route) == Some(interface));
        Ok(ours.filter_map(destination).collect())
    }

    async fn dump_addresses(
        &self,
        interface: Option<u32>,
    ) -> Result<Vec<AddressMessage>, NetlinkError> {
        let mut request = self.handle.address().get();
        if let Some(index) = interface {
            request = request.set_link_index_filter(index);
        }
        let all: Vec<AddressMessage> = request
            .execute()
            .try_collect()
            .await
            .map_err(refused(|| "list addresses".into()))?;
        // Older kernels ignore the filter.
        Ok(all
            .into_iter()
            .filter(|found| interface.is_none_or(|index| found.header.index == index))
            .collect())
    }

    async fn dump_routes(&self) -> Result<Vec<RouteMessage>, NetlinkError> {
        let mut all = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            let found: Vec<RouteMessage> = self
                .handle
                .route()
                .get(message)
                .execute()
                .try_collect()
                .await
                .map_err(refused(|| "list routes".into()))?;
            all.extend(found);
        }
        Ok(all)
    }

    async fn dump_rules(&self) -> Result<Vec<RuleMessage>, NetlinkError> {
        let mut all = Vec::new();
        for version in [IpVersion::V4, IpVersion::V6] {
            let found: Vec<RuleMessage> = self
                .handle
                .rule()
                .get(version)
                .execute()
                .try_collect()
                .await
                .map_err(refused(|| "list rules".into()))?;
            all.extend(found);
        }
        Ok(all)
    }
}

/// What we have put into the kernel for one device. Knows the kernel's state by asking it each time, so whatever a
/// killed predecessor left and whatever somebody removed by hand is repaired by the next `reconcile`.
#[derive(Debug)]
pub struct Installed {
    netlink: Netlink,
    interface: u32,
    table: u32,
}

impl Installed {
    /// Takes charge of `interface` and `table`, after removing rules that a killed predecessor left behind.
    pub async fn new(netlink: Netlink, interface: u32, table: u32) -> Result<Self, NetlinkError> {
        let installed = Self {
            netlink,
            interface,
            table,
        };
        installed.remove().await?;
        Ok(installed)
    }

    /// The connection, for questions.
    pub fn netlink(&self) -> &Netlink {
        &self.netlink
    }

    /// Makes the kernel have exactly what is wanted of ours, and returns how many things had to be changed.
    pub async fn reconcile(&self, wanted: &Wanted) -> Result<usize, NetlinkError> {
        let addresses = self.reconcile_addresses(&wanted.addresses).await?;
        let routes = self.reconcile_routes(&wanted.routes).await?;
        let rules = self.add_missing_rules().await?;
        Ok(addresses + routes + rules)
    }

    /// Removes everything of ours. The rules stay if another agent still has routes in the same table.
    pub async fn remove(&self) -> Result<(), NetlinkError> {
        self.reconcile_addresses(&BTreeSet::new()).await?;
        self.reconcile_routes(&BTreeSet::new()).await?;
        let shared = self
            .netlink
            .dump_routes()
            .await?
            .iter()
            .any(|route| is_ours(route, self.table));
        if !shared {
            self.remove_rules().await?;
        }
        Ok(())
    }

    async fn reconcile_addresses(&self, wanted: &BTreeSet<IpAddr>) -> Result<usize, NetlinkError> {
        let mut changes = 0;
        let mut present = BTreeSet::new();
        for message in self.netlink.dump_addresses(Some(self.interface)).await? {
            let Some(address) = our_address(&message) else {
                continue;
            };
            if wanted.contains(&address) {
                present.insert(address);
                continue;
            }
            changes += 1;
            let request = self.netlink.handle.address().del(message);
            request
                .execute()
                .await
                .map_err(refused(|| format!("remove address {address}")))?;
        }
        for address in wanted.difference(&present) {
            changes += 1;
            self.add_address(*address).await?;
        }
        Ok(changes)
    }

    async fn add_address(&self, address: IpAddr) -> Result<(), NetlinkError> {
        let length = if address.is_ipv4() { 32 } else { 128 };
        let mut request = self
            .netlink
            .handle
            .address()
            .add(self.interface, address, length);
        let message = request.message_mut();
        message
            .attributes
            .push(AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL)));
        if address.is_ipv6() {
            // Nobody else is on a TUN device: there is no duplicate to detect, and a wait would lose packets.
            message.header.flags |= AddressHeaderFlags::Nodad;
            message
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        ignore_existing(request.execute().await).map_err(refused(|| {
            format!("add address {address} to interface {}", self.interface)
        }))
    }

    async fn reconcile_routes(&self, wanted: &BTreeSet<Prefix>) -> Result<usize, NetlinkError> {
        let mut changes = 0;
        let mut present = BTreeSet::new();
        for message in self.netlink.dump_routes().await? {
            if !is_ours(&message, self.table) || oif(&message) != Some(self.interface) {
                continue;
            }
            let Some(prefix) = destination(&message) else {
                continue;
            };
            if wanted.contains(&prefix) {
                present.insert(prefix);
                continue;
            }
            changes += 1;
            let request = self.netlink.handle.route().del(message);
            request
                .execute()
                .await
                .map_err(refused(|| format!("remove route {prefix}")))?;
        }
        for prefix in wanted.difference(&present) {
            changes += 1;
            self.add_route(*prefix).await?;
        }
        Ok(changes)
    }

    async fn add_route(&self, prefix: Prefix) -> Result<(), NetlinkError> {
        let message = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(prefix.address(), prefix.length())
            .expect("a prefix has the length of its family")
            .output_interface(self.interface)
            .table_id(self.table)
            .protocol(RouteProtocol::from(PROTOCOL))
            .scope(if prefix.is_ipv6() {
                RouteScope::Universe
            } else {
                RouteScope::Link
            })
            .build();
        ignore_existing(self.netlink.handle.route().add(message).execute().await).map_err(refused(
            || format!("add route {prefix} to table {}", self.table),
        ))
    }

    async fn add_missing_rules(&self) -> Result<usize, NetlinkError> {
        let present: Vec<RuleMessage> = self.our_rules().await?;
        let mut changes = 0;
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            if present.iter().any(|rule| rule.header.family == family) {
                continue;
            }
            changes += 1;
            let mut request = self
                .netlink
                .handle
                .rule()
                .add()
                .table_id(self.table)
                .priority(TABLE)
                .fw_mark(MARK)
                .action(RuleAction::ToTable);
            let message = request.message_mut();
            message.header.family = family;
            message.header.flags |= RuleFlags::Invert;
            message
                .attributes
                .push(RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL)));
            match ignore_existing(request.execute().await) {
                // A kernel without IPv6 has no IPv6 rules, and needs none.
                Err(error) if family == AddressFamily::Inet6 && unsupported(&error) => changes -= 1,
                other => other.map_err(refused(|| format!("add rule for table {}", self.table)))?,
            }
        }
        Ok(changes)
    }

    async fn remove_rules(&self) -> Result<(), NetlinkError> {
        for rule in self.our_rules().await? {
            let request = self.netlink.handle.rule().del(rule);
            request
                .execute()
                .await
                .map_err(refused(|| "remove a rule".into()))?;
        }
        Ok(())
    }

    async fn our_rules(&self) -> Result<Vec<RuleMessage>, NetlinkError> {
        let mut rules = self.netlink.dump_rules().await?;
        rules.retain(|rule| {
            let ours = |attribute: &RuleAttribute| {
                matches!(attribute, RuleAttribute::Protocol(p) if u8::from(*p) == PROTOCOL)
            };
            let leads_here = |attribute: &RuleAttribute| {
                matches!(attribute, RuleAttribute::Table(table) if *table == self.table)
            };
            let table = u32::from(rule.header.table) == self.table
                || rule.attributes.iter().any(leads_here);
            table && rule.attributes.iter().any(ours)
        });
        Ok(rules)
    }
}

fn our_address(message: &AddressMessage) -> Option<IpAddr> {
    let ours = |attribute: &AddressAttribute| matches!(attribute, AddressAttribute::Protocol(AddressProtocol::Other(p)) if *p == PROTOCOL);
    if !message.attributes.iter().any(ours) {
        return None;
    }
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Local(ip) | AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        })
}

/// Whether a route is in `table` and carries our protocol number.
fn is_ours(route: &RouteMessage, table: u32) -> bool {
    let named = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        })
        .unwrap_or_else(|| route.header.table.into());
    named == table && u8::from(route.header.protocol) == PROTOCOL
}

fn oif(route: &RouteMessage) -> Option<u32> {
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        })
}

fn destination(route: &RouteMessage) -> Option<Prefix> {
    let found = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
            RouteAttribute::Destination(RouteAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
            _ => None,
        });
    // A default route has no destination attribute.
    let address = found.unwrap_or(match route.header.address_family {
        AddressFamily::Inet6 => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        _ => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
    });
    Prefix::new(address, route.header.destination_prefix_length)
}

fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(-message.raw_code()),
        _ => None,
    }
}

fn ignore_existing(result: Result<(), rtnetlink::Error>) -> Result<(), rtnetlink::Error> {
    match result {
        Err(error) if errno(&error) == Some(EEXIST) => Ok(()),
        other => other,
    }
}

fn unsupported(error: &rtnetlink::Error) -> bool {
    matches!(
        errno(error),
        Some(nix::libc::EAFNOSUPPORT | nix::libc::EOPNOTSUPP)
    )
}

fn refused(what: impl FnOnce() -> String) -> impl FnOnce(rtnetlink::Error) -> NetlinkError {
    move |source| match errno(&source) {
        Some(nix::libc::EPERM | nix::libc::EACCES) => NetlinkError::Privilege(what()),
        _ => NetlinkError::Request {
            what: what(),
            source,
        },
    }
}
