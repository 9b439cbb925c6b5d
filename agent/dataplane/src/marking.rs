//! How a packet is to be treated on its way, by its differentiated services code point (RFC 2474).

use wattle_model::Class;

/// The drop precedence of what is dropped first.
const MOST_PRECEDENCE: u8 = 2;
/// The largest share of a flow.
const MOST_WEIGHT: u8 = 4;

/// How urgent a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Voice, interactive video, network control: first, as long as it keeps to its share.
    RealTime,
    /// Everything that does not say otherwise.
    Default,
    /// What says that it can wait (RFC 8622 and the older class selector 1).
    Bulk,
}

impl Priority {
    pub(crate) const ALL: [Self; 3] = [Self::RealTime, Self::Default, Self::Bulk];

    const fn code(self) -> u8 {
        match self {
            Self::Default => 0,
            Self::Bulk => 1,
            Self::RealTime => 2,
        }
    }

    fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Bulk,
            2 => Self::RealTime,
            _ => Self::Default,
        }
    }
}

/// Which price decides where a packet goes, before whom it goes, and what is dropped before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marking {
    /// The class: by which price of the links its way is chosen.
    pub class: Class,
    /// How urgent it is where it has to wait.
    pub priority: Priority,
    /// How soon it is dropped where there is too much: 0 late, 2 early.
    pub precedence: u8,
    /// Share of its flow among those of the same priority: 1 to 4, what the others have being 1.
    pub weight: u8,
}

impl Marking {
    /// The agent's own messages.
    pub const CONTROL: Self = Self {
        class: Class::Latency,
        priority: Priority::RealTime,
        precedence: 0,
        weight: 1,
    };

    /// The marking of a packet with this code point (RFC 2597, RFC 4594, RFC 8622).
    pub const fn of_dscp(dscp: u8) -> Self {
        let (class, priority) = match dscp {
            // Lower effort, class selector 1.
            1 | 8 => (Class::Bulk, Priority::Bulk),
            // Class selector 2: operations, administration and management.
            16 => (Class::Admin, Priority::Default),
            // Class selectors 4 to 7, real-time interactive and conferencing, voice admit, expedited forwarding.
            32 | 34 | 36 | 38 | 40 | 44 | 46 | 48 | 56 => (Class::Latency, Priority::RealTime),
            _ => (Class::Latency, Priority::Default),
        };
        // Assured forwarding: four classes with a share each, three drop precedences in each.
        let (precedence, weight) = match dscp {
            10 | 18 | 26 | 34 => (0, dscp / 8),
            12 | 20 | 28 | 36 => (1, dscp / 8),
            14 | 22 | 30 | 38 => (2, dscp / 8),
            _ => (0, 1),
        };
        Self {
            class,
            priority,
            precedence,
            weight,
        }
    }

    /// The marking as a relay frame's class and priority, and its precedence and weight.
    pub const fn to_bytes(self) -> [u8; 2] {
        [
            self.class.code() << 4 | self.priority.code(),
            self.precedence << 4 | self.weight,
        ]
    }

    /// The marking of a relay frame; what is not known is as if nothing were said.
    pub fn from_bytes([class_priority, precedence_weight]: [u8; 2]) -> Self {
        Self {
            class: Class::from_code(class_priority >> 4).unwrap_or_default(),
            priority: Priority::from_code(class_priority & 15),
            precedence: (precedence_weight >> 4).min(MOST_PRECEDENCE),
            weight: (precedence_weight & 15).clamp(1, MOST_WEIGHT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_points_say_what_is_urgent_and_what_the_way_is_to_be_good_for() {
        for (dscp, class, priority, precedence, weight) in [
            (0, Class::Latency, Priority::Default, 0, 1),
            (1, Class::Bulk, Priority::Bulk, 0, 1),
            (8, Class::Bulk, Priority::Bulk, 0, 1),
            (10, Class::Latency, Priority::Default, 0, 1),
            (14, Class::Latency, Priority::Default, 2, 1),
            (16, Class::Admin, Priority::Default, 0, 1),
            (28, Class::Latency, Priority::Default, 1, 3),
            (34, Class::Latency, Priority::RealTime, 0, 4),
            (46, Class::Latency, Priority::RealTime, 0, 1),
            (63, Class::Latency, Priority::Default, 0, 1),
        ] {
            let expected = Marking {
                class,
                priority,
                precedence,
                weight,
            };
            assert_eq!(Marking::of_dscp(dscp), expected, "{dscp}");
        }
    }

    #[test]
    fn frames_carry_every_marking_and_what_is_not_known_says_nothing() {
        for dscp in 0..64 {
            let marking = Marking::of_dscp(dscp);
            assert_eq!(Marking::from_bytes(marking.to_bytes()), marking, "{dscp}");
        }
        // As agents send it that know no weights.
        assert_eq!(Marking::from_bytes([0, 0]), Marking::of_dscp(0));
        let unknown = Marking::from_bytes([0xff, 0xff]);
        assert_eq!((unknown.precedence, unknown.weight), (2, 4));
        assert_eq!(unknown.class, Class::Latency);
    }
}
