//! Has the crate compiled again when a migration is added: `sqlx::migrate!` alone only sees those that it read before.

fn main() {
    println!("cargo::rerun-if-changed=src/db/migrations");
}
