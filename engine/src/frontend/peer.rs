//! Who is at the other end of a connection, and what that one may do.

use crate::app::Options;
use crate::status::{Result, Status};
use crate::turns::Client;

/// What is known of who is at the other end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peer {
    /// Loopback or a Unix socket.
    pub is_local: bool,
    /// It showed a client certificate, which was verified.
    pub is_certified: bool,
    /// It showed a token that is for administrators.
    pub has_admin_token: bool,
    /// The connection, where clients take turns.
    pub client: Client,
}

impl Peer {
    /// Check that the peer may change or watch the server, and not only ask its models.
    ///
    /// # Errors
    /// PERMISSION_DENIED.
    pub fn check_may_administrate(self, options: &Options, what: &str) -> Result<()> {
        if self.has_admin_token
            || self.is_local
            || self.is_certified
            || options.allow_remote_administration
        {
            return Ok(());
        }
        Err(Status::permission_denied(format!(
            "{what} is answered to local peers only; start the server with \
             --allow_remote_administration to allow others"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_may_ask_and_no_more() {
        let remote = Peer::default();
        let local = Peer { is_local: true, ..remote };
        let certified = Peer { is_certified: true, ..remote };
        let with_token = Peer { has_admin_token: true, ..remote };
        for (peer, allow_remote_administration, expected) in [
            (remote, false, false),
            (remote, true, true),
            (local, false, true),
            (certified, false, true),
            (with_token, false, true),
        ] {
            let options = Options { allow_remote_administration, ..Options::default() };
            let may = peer.check_may_administrate(&options, "This").is_ok();
            assert_eq!(may, expected, "{peer:?} {allow_remote_administration}");
        }
    }
}
