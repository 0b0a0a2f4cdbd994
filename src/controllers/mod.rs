//! The controllers: each brings the cluster in line with one kind of object, from whatever state it finds.

pub mod tenant;
