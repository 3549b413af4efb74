//! The rows of the table, in its order.

use crate::data::Place;
use crate::report::Outcome;

mod cluster;
mod forward;
mod fresh;
mod hdfs;
mod lead;
mod many;
pub mod planner;
pub mod pool_table;
mod put;
mod reading;
mod staging;
pub mod writing;

/// Measures one row.
pub type Measure = fn(&Place) -> anyhow::Result<Vec<Outcome>>;

/// Every row by its number.
pub const ALL: [(u8, Measure); 15] = [
    (1, reading::pooled),
    (2, reading::plain),
    (3, reading::sequential),
    (4, staging::staging),
    (5, put::put),
    (6, many::start),
    (7, many::list),
    (8, planner::plans),
    (9, pool_table::view),
    (10, lead::cycles),
    (11, fresh::segments),
    (12, forward::queries),
    (13, writing::single),
    (14, writing::bulk),
    (15, writing::promotion),
];
