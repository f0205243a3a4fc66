//! What an ordinary pod tries in order to get around the mesh. Whatever becomes of the attempt, nothing leaves in
//! plaintext.

mod before_connect;
pub(crate) mod cage;
mod on_the_way;
mod own_ports;
mod reuse;
