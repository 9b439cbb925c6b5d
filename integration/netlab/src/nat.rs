//! Routers that translate addresses.

use anyhow::Result;

use crate::{Host, Lab};

/// How a router translates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// Keeps the source port where it can, lets in only whom was written to: what most homes have.
    PortRestricted,
    /// Another source port for each destination: what defeats guessing.
    Symmetric,
}

impl Lab {
    /// Makes `router` translate whatever comes from `inside` and leaves towards `outside`, and makes it the default
    /// gateway of `inside`. Both need a link to the router already. Nothing from outside gets in unasked.
    pub fn nat(&mut self, inside: &Host, router: &Host, outside: &Host, nat: Nat) -> Result<()> {
        let private = self.segment(inside, router)?;
        let public = self.segment(router, outside)?;
        let to_private = &private.of(router)?.interface;
        let to_public = &public.of(router)?.interface;
        let how = match nat {
            Nat::PortRestricted => "masquerade",
            Nat::Symmetric => "masquerade random,fully-random",
        };
        router.sh("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")?;
        router.nft(&format!(
            "table inet nat-{to_private} {{
                chain leaving {{
                    type nat hook postrouting priority srcnat; policy accept;
                    iifname \"{to_private}\" oifname \"{to_public}\" {how}
                }}
                chain passing {{
                    type filter hook forward priority filter; policy accept;
                    iifname \"{to_public}\" oifname \"{to_private}\" ct state != {{ established, related }} drop
                }}
            }}\n"
        ))?;
        self.gateway(inside, router)
    }

    /// Makes `router` forward and be the default gateway of `host`.
    pub fn gateway(&mut self, host: &Host, router: &Host) -> Result<()> {
        let segment = self.segment(host, router)?;
        let (v4, v6) = (segment.v4(router)?, segment.v6(router)?);
        router.sh("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")?;
        host.sh(&format!(
            "ip route replace default via {v4}; ip -6 route replace default via {v6}"
        ))
        .map(drop)
    }
}
