//! Brings up a test cluster from the command line.

fn main() {}
