//! Where nodes find the coordinator when nobody said: the addresses of this host's interfaces that others may reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use wattle_api::token::MAX_ADDRESSES;
use wattle_fleet::AddressPlan;

/// `host:port` where a coordinator that listens there is found; on loopback, if the host has no other address.
pub(crate) fn of(listen: SocketAddr, plan: &AddressPlan) -> Vec<String> {
    let found = of_host(listen, plan);
    if !found.is_empty() {
        return found;
    }
    let ip = match listen.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    vec![SocketAddr::new(ip, listen.port()).to_string()]
}

/// `host:port` on each address of this host that others may reach, for a listener on every address; none for others.
pub(crate) fn of_host(listen: SocketAddr, plan: &AddressPlan) -> Vec<String> {
    if !listen.ip().is_unspecified() {
        return Vec::new();
    }
    let found = choose(of_interfaces(), listen.ip(), plan);
    let with_port = |ip| SocketAddr::new(ip, listen.port()).to_string();
    found.into_iter().map(with_port).collect()
}

fn of_interfaces() -> Vec<IpAddr> {
    let Ok(interfaces) = getifaddrs() else {
        return Vec::new();
    };
    let up = interfaces.filter(|interface| interface.flags.contains(InterfaceFlags::IFF_UP));
    let addresses = up.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    });
    addresses.collect()
}

/// Those that others can dial, as many as a token holds, those of the Internet first. The plan's own addresses are
/// reached over the mesh, which a node enters only after it has found the coordinator.
fn choose(addresses: Vec<IpAddr>, listen: IpAddr, plan: &AddressPlan) -> Vec<IpAddr> {
    let of_plan = |ip: &IpAddr| {
        let mut prefixes = [plan.ipv4, plan.ipv6].into_iter().flatten();
        prefixes.any(|prefix| prefix.contains(*ip))
    };
    let mut chosen: Vec<IpAddr> = addresses
        .into_iter()
        .filter(|ip| wattle_api::plan::is_usable(*ip) && !of_plan(ip))
        // A listener on [::] takes IPv4 too.
        .filter(|ip| ip.is_ipv4() || listen.is_ipv6())
        .collect();
    chosen.sort_by_key(|ip| (is_private(*ip), ip.is_ipv6()));
    chosen.dedup();
    chosen.truncate(MAX_ADDRESSES);
    chosen
}

const fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_private(),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: [&str; 9] = [
        "127.0.0.1",
        "::1",
        "169.254.3.4",
        "fe80::1",
        "10.0.0.5",
        "fd12::5",
        "2001:db8::5",
        "192.0.2.5",
        "100.72.0.1",
    ];

    fn chosen(listen: &str) -> Vec<String> {
        let plan = AddressPlan {
            ipv4: "100.72.0.0/16".parse().ok(),
            ipv6: "fd57::/64".parse().ok(),
        };
        let host = HOST.iter().map(|ip| ip.parse().unwrap()).collect();
        let chosen = choose(host, listen.parse().unwrap(), &plan);
        chosen.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn nodes_are_told_of_addresses_that_they_can_dial_those_of_the_internet_first() {
        assert_eq!(
            chosen("::"),
            ["192.0.2.5", "2001:db8::5", "10.0.0.5", "fd12::5"]
        );
        assert_eq!(chosen("0.0.0.0"), ["192.0.2.5", "10.0.0.5"]);
    }

    #[test]
    fn who_listens_on_one_address_is_found_there() {
        let plan = AddressPlan::default_of(wattle_model::NetworkId(1));
        let listen = "127.0.0.1:5741".parse().unwrap();
        assert_eq!(of(listen, &plan), ["127.0.0.1:5741"]);
    }
}
