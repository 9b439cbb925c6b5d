//! The Wattle coordinator.

fn main() {}
