//! What dataplane and tunnel say to each other about a packet's transport checksum.

/// What the checksum field of a packet's TCP or UDP header holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    /// The checksum.
    #[default]
    Complete,
    /// The sum of the pseudo header only: whoever hands the packet to a wire without authentication completes it.
    Partial,
}
