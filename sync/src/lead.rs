//! The lead synchronizer: which of the candidates it is, and what it does while it leads.

mod cycle;
mod dry_run;
mod election;
mod nodes;
mod orders;
mod pool_rows;
mod run;
mod view;

pub use cycle::{CycleError, CycleReport, CycleSettings, Lead, LeadOutside};
pub use dry_run::{
    DryRunError, Forecast, MoveSum, NodeForecast, UnplacedForecast, WhatIf, dry_run,
};
pub use election::{
    Candidate, ElectionError, LEAD_KEY, LeadSettings, Leader, Term, leader, leading,
};
pub use nodes::NodeReport;
pub use orders::Orders;
pub use run::{Asked, LeadHandle, LeadService, LeadStatus, Listed};
