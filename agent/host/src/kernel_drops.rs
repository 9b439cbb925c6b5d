//! What the kernel dropped in the queues at which the agent stands: in front of the TUN device, and behind it.
//!
//! `/proc/thread-self/net/dev` has the counters of every interface of the calling thread's network namespace (`proc_pid_net(5)`).

/// What the kernel dropped at an interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InterfaceDrops {
    /// On the way out of the host: for a TUN device, what its reader did not take in time.
    pub tx_packets: u64,
    /// On the way into the host: for a TUN device, what its writer wrote and the network stack had no room for.
    pub rx_packets: u64,
}

/// The drops at the interface of that name; `None` if there is none.
pub fn interface_drops(name: &str) -> Option<InterfaceDrops> {
    parse(
        &std::fs::read_to_string("/proc/thread-self/net/dev").ok()?,
        name,
    )
}

fn parse(table: &str, name: &str) -> Option<InterfaceDrops> {
    // Receive: bytes packets errs drop fifo frame compressed multicast; transmit: bytes packets errs drop …
    const RX_DROP: usize = 3;
    const TX_DROP: usize = 11;
    let row = table.lines().find_map(|line| {
        let (interface, row) = line.split_once(':')?;
        (interface.trim() == name).then_some(row)
    })?;
    let figure = |column| row.split_whitespace().nth(column)?.parse().ok();
    Some(InterfaceDrops {
        tx_packets: figure(TX_DROP)?,
        rx_packets: figure(RX_DROP)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       2    0    0    0     0          0         0      100       2    0    0    0     0       0          0
wattle0:    100       2    1    7    0     0          0         0      100       2    3   42    0     0       0          0
";

    #[test]
    fn the_drops_of_one_interface_are_read_and_of_no_other() {
        let found = InterfaceDrops {
            tx_packets: 42,
            rx_packets: 7,
        };
        assert_eq!(parse(TABLE, "wattle0"), Some(found));
        assert_eq!(parse(TABLE, "lo"), Some(InterfaceDrops::default()));
        for (table, name) in [
            (TABLE, "wattle"),
            (TABLE, "face"),
            ("", "lo"),
            ("lo: 1 2", "lo"),
        ] {
            assert_eq!(parse(table, name), None, "{name}");
        }
    }
}
