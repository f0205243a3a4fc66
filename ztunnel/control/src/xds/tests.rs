//! The state machine alone, against what the field's own proxy was recorded to say, and the client against a control
//! plane that misbehaves.

mod client;
mod converting;
mod measured;
mod needs;
mod recorded;
mod resources;
mod responses;
