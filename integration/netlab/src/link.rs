//! Links between hosts and what goes wrong on them.
//!
//! A segment is a subnet with two hosts on a veth pair, or many on a bridge, or two on a [`wire`](crate::wire). On veth
//! every host's sending side can be cut, made lossy (nft, netdev egress) or slow (tbf), without either end being told.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::host::output;
use crate::wire::{Direction, Wire};
use crate::{Host, Lab, Shape};

/// One host's end of a segment.
#[derive(Debug, Clone)]
pub struct End {
    /// The host.
    pub host: Host,
    /// The name of its interface.
    pub interface: String,
    /// Its IPv4 address, in a /24.
    pub v4: Ipv4Addr,
    /// Its IPv6 address, in a /64.
    pub v6: Ipv6Addr,
}

/// A subnet of hosts.
#[derive(Debug, Clone)]
pub struct Segment {
    /// The ends, in the order in which the hosts were named.
    pub ends: Vec<End>,
}

impl Segment {
    /// The end of a host.
    pub fn of(&self, host: &Host) -> Result<&End> {
        let end = self.ends.iter().find(|end| end.host.name() == host.name());
        end.with_context(|| format!("{} is not on this segment", host.name()))
    }

    /// The IPv4 address of a host.
    pub fn v4(&self, host: &Host) -> Result<IpAddr> {
        Ok(self.of(host)?.v4.into())
    }

    /// The IPv6 address of a host.
    pub fn v6(&self, host: &Host) -> Result<IpAddr> {
        Ok(self.of(host)?.v6.into())
    }
}

/// What is wrong in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Trouble {
    cut: bool,
    loss_percent: f64,
}

/// A segment with its carrier.
#[derive(Debug)]
pub(crate) struct Attachment {
    segment: Segment,
    troubles: Vec<Trouble>,
    wire: Option<Wire>,
    /// The namespace of the bridge, and the bridge's port for each end.
    switch: Option<Host>,
}

impl Lab {
    /// Joins two hosts by a veth pair with IPv4 and IPv6 addresses at both ends.
    pub fn link(&mut self, a: &Host, b: &Host) -> Result<Segment> {
        let segment = self.plan(&[a, b]);
        let [end_a, end_b] = [&segment.ends[0], &segment.ends[1]];
        output(
            Command::new("ip")
                .args([
                    "link",
                    "add",
                    "name",
                    &end_a.interface,
                    "netns",
                    a.namespace(),
                    "type",
                    "veth",
                ])
                .args(["peer", "name", &end_b.interface, "netns", b.namespace()]),
        )?;
        self.attach(segment, None, None)
    }

    /// Joins many hosts by a bridge.
    pub fn switch(&mut self, name: &str, hosts: &[&Host]) -> Result<Segment> {
        let mut segment = self.plan(hosts);
        let switch = self.host(name)?;
        switch.sh("ip link add name bridge0 type bridge; ip link set bridge0 up")?;
        for end in &mut segment.ends {
            end.interface = name.to_owned();
            let port = end.host.name();
            output(
                Command::new("ip")
                    .args(["link", "add", "name", name, "netns", end.host.namespace()])
                    .args([
                        "type",
                        "veth",
                        "peer",
                        "name",
                        port,
                        "netns",
                        switch.namespace(),
                    ]),
            )?;
            switch.sh(&format!(
                "ip link set dev {port} master bridge0; ip link set dev {port} up"
            ))?;
        }
        self.attach(segment, None, Some(switch))
    }

    /// Joins two hosts by a wire with delay, jitter, loss: every frame goes through this process.
    pub fn wire(&mut self, a: &Host, b: &Host, shape: Shape) -> Result<Segment> {
        let segment = self.plan(&[a, b]);
        let interfaces = [
            segment.ends[0].interface.as_str(),
            segment.ends[1].interface.as_str(),
        ];
        let wire = Wire::new([a, b], interfaces, shape)?;
        self.attach(segment, Some(wire), None)
    }

    /// Cuts the link of two hosts in both directions. Neither is told: interfaces stay up, packets vanish.
    pub fn cut(&mut self, a: &Host, b: &Host) -> Result<()> {
        self.trouble(a, b, |trouble| trouble.cut = true)?;
        self.trouble(b, a, |trouble| trouble.cut = true)
    }

    /// Cuts one direction only.
    pub fn cut_one_way(&mut self, from: &Host, to: &Host) -> Result<()> {
        self.trouble(from, to, |trouble| trouble.cut = true)
    }

    /// Makes the link whole again: no cut, no loss, full rate.
    pub fn heal(&mut self, a: &Host, b: &Host) -> Result<()> {
        for (from, to) in [(a, b), (b, a)] {
            self.trouble(from, to, |trouble| *trouble = Trouble::default())?;
            self.rate(from, to, None)?;
        }
        Ok(())
    }

    /// Loses packets in both directions, each by itself with this probability in percent.
    pub fn loss(&mut self, a: &Host, b: &Host, percent: f64) -> Result<()> {
        self.loss_one_way(a, b, percent)?;
        self.loss_one_way(b, a, percent)
    }

    /// Loses packets in one direction.
    pub fn loss_one_way(&mut self, from: &Host, to: &Host, percent: f64) -> Result<()> {
        self.trouble(from, to, |trouble| trouble.loss_percent = percent)
    }

    /// Limits one direction to so many Mbit/s with a queue of 50 ms; `None` lifts the limit. Not on a wire, whose
    /// rate is part of its shape.
    pub fn rate(&mut self, from: &Host, to: &Host, mbit: Option<u32>) -> Result<()> {
        let (attachment, from, _) = self.find(from, to)?;
        if attachment.wire.is_some() {
            ensure!(mbit.is_none(), "the rate of a wire is part of its shape");
            return Ok(());
        }
        let end = &attachment.segment.ends[from];
        let interface = &end.interface;
        end.host.sh(&match mbit {
            Some(mbit) => format!(
                "tc qdisc replace dev {interface} root tbf rate {mbit}mbit burst 128k latency 50ms"
            ),
            None => format!("tc qdisc del dev {interface} root 2>/dev/null || true"),
        })?;
        Ok(())
    }

    /// Gives the wire of two hosts another shape.
    pub fn reshape(&mut self, a: &Host, b: &Host, shape: Shape) -> Result<()> {
        let (attachment, ..) = self.find(a, b)?;
        attachment
            .wire
            .as_ref()
            .context("this link is no wire")?
            .reshape(shape);
        Ok(())
    }

    /// Takes a host's interface of the segment down, as when its plug is pulled: both ends of a veth notice.
    pub fn unplug(&mut self, host: &Host, from: &Host) -> Result<()> {
        let (attachment, end, _) = self.find(host, from)?;
        let end = &attachment.segment.ends[end];
        end.host
            .sh(&format!("ip link set dev {} down", end.interface))
            .map(drop)
    }

    /// The segment of two hosts.
    pub fn segment(&mut self, a: &Host, b: &Host) -> Result<Segment> {
        Ok(self.find(a, b)?.0.segment.clone())
    }

    /// All ends of a host.
    pub fn ends(&self, host: &Host) -> Vec<End> {
        let ends = self
            .attachments
            .iter()
            .flat_map(|attachment| &attachment.segment.ends);
        ends.filter(|end| end.host.name() == host.name())
            .cloned()
            .collect()
    }

    fn plan(&mut self, hosts: &[&Host]) -> Segment {
        self.subnets += 1;
        let [high, low] = self.subnets.to_be_bytes();
        let end = |(i, host): (usize, &&Host)| {
            let number = i as u8 + 1;
            // Two hosts name their interfaces after each other; a switch renames them after itself.
            let other = hosts.iter().find(|other| other.name() != host.name());
            End {
                host: (*host).clone(),
                interface: other.map_or_else(|| "eth0".to_owned(), |other| other.name().to_owned()),
                v4: Ipv4Addr::new(10, 100 + high, low, number),
                v6: Ipv6Addr::new(0xfd01, 0, 0, self.subnets, 0, 0, 0, number.into()),
            }
        };
        Segment {
            ends: hosts.iter().enumerate().map(end).collect(),
        }
    }

    fn attach(
        &mut self,
        segment: Segment,
        wire: Option<Wire>,
        switch: Option<Host>,
    ) -> Result<Segment> {
        for End {
            host,
            interface,
            v4,
            v6,
        } in &segment.ends
        {
            host.sh(&format!(
                "ip address add {v4}/24 dev {interface}
                 ip -6 address add {v6}/64 dev {interface} nodad
                 ip link set dev {interface} up"
            ))?;
        }
        let troubles = vec![Trouble::default(); segment.ends.len()];
        self.attachments.push(Attachment {
            segment: segment.clone(),
            troubles,
            wire,
            switch,
        });
        Ok(segment)
    }

    fn find(&mut self, from: &Host, to: &Host) -> Result<(&mut Attachment, usize, usize)> {
        let position = |attachment: &Attachment, host: &Host| {
            attachment
                .segment
                .ends
                .iter()
                .position(|end| end.host.name() == host.name())
        };
        for attachment in &mut self.attachments {
            if let (Some(a), Some(b)) = (position(attachment, from), position(attachment, to)) {
                return Ok((attachment, a, b));
            }
        }
        anyhow::bail!("{} and {} share no link", from.name(), to.name())
    }

    fn trouble(&mut self, from: &Host, to: &Host, change: impl FnOnce(&mut Trouble)) -> Result<()> {
        let (attachment, from, _) = self.find(from, to)?;
        change(&mut attachment.troubles[from]);
        attachment.apply(from)
    }
}

impl Attachment {
    /// Brings the trouble of what an end sends into the kernel, or into the wire. On a switch this is the trouble of
    /// all that the host sends there.
    fn apply(&self, from: usize) -> Result<()> {
        let Trouble { cut, loss_percent } = self.troubles[from];
        let loss = if cut { 100.0 } else { loss_percent };
        if let Some(wire) = &self.wire {
            wire.lose(
                if from == 0 {
                    Direction::Forth
                } else {
                    Direction::Back
                },
                loss,
            );
            return Ok(());
        }
        let End {
            host, interface, ..
        } = &self.segment.ends[from];
        lose(host, interface, loss)?;
        if let Some(switch) = &self.switch {
            // What the others send to it, too: nothing comes through a cut cable.
            lose(switch, host.name(), if cut { 100.0 } else { 0.0 })?;
        }
        Ok(())
    }
}

/// Drops this share of what leaves through the interface. The sender is not told: UDP ignores a drop below it.
fn lose(host: &Host, interface: &str, percent: f64) -> Result<()> {
    let table = format!("table netdev trouble-{interface}");
    let per_million = (percent.clamp(0.0, 100.0) * 10_000.0).round() as u32;
    let rule = match per_million {
        0 => String::new(),
        1_000_000 => "counter drop;".to_owned(),
        some => format!("numgen random mod 1000000 < {some} counter drop;"),
    };
    host.nft(&format!(
        "{table}\ndelete {table}\n{table} {{
            chain out {{ type filter hook egress device \"{interface}\" priority 0; policy accept; {rule} }}
        }}\n"
    ))
}
