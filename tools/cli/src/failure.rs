//! Failures as people and scripts see them: what, why, next command, and a fixed exit code.

use std::io;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use wattle_control::{ClientError, ErrorCode};

/// Exit codes; never renumbered. Success is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub(crate) enum Exit {
    /// Anything that has no code of its own.
    Failure = 1,
    /// The command line or a file it names is not well-formed.
    Usage = 2,
    /// Nobody answers on the agent's socket or the coordinator's port.
    Unreachable = 3,
    /// This user may not do that.
    Permission = 4,
    /// A check did not pass.
    Check = 5,
    /// The answer did not come in time.
    Timeout = 6,
    /// No node, route or link of that name.
    NotFound = 7,
    /// Something is not as it is desired.
    Differs = 8,
}

/// Why a verb did not do what it was asked.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Failure {
    /// Decides the exit code.
    #[serde(rename = "code")]
    pub(crate) exit: Exit,
    /// What did not work.
    pub(crate) what: String,
    /// The reason.
    pub(crate) why: String,
    /// What to do.
    pub(crate) next: String,
    #[serde(skip)]
    broken_pipe: bool,
}

/// What every verb returns.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A failure with its three parts.
    pub(crate) fn new(
        exit: Exit,
        what: impl Into<String>,
        why: impl std::fmt::Display,
        next: impl Into<String>,
    ) -> Self {
        Self {
            exit,
            what: what.into(),
            why: why.to_string(),
            next: next.into(),
            broken_pipe: false,
        }
    }

    /// Whether the reader of standard output has gone.
    pub(crate) const fn is_broken_pipe(&self) -> bool {
        self.broken_pipe
    }

    /// A failure with a file, with the exit code that its cause has.
    pub(crate) fn file(
        what: impl Into<String>,
        error: &io::Error,
        next: impl Into<String>,
    ) -> Self {
        let exit = match error.kind() {
            io::ErrorKind::PermissionDenied => Exit::Permission,
            io::ErrorKind::NotFound => Exit::NotFound,
            _ => Exit::Failure,
        };
        Self::new(exit, what, error, next)
    }
}

impl From<io::Error> for Failure {
    /// Only writing to standard output uses this.
    fn from(error: io::Error) -> Self {
        let broken_pipe = error.kind() == io::ErrorKind::BrokenPipe;
        let next = "free space or choose another target";
        Self {
            broken_pipe,
            ..Self::new(Exit::Failure, "cannot write the output", error, next)
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let what = "the agent did not answer";
        match error {
            ClientError::Unreachable { socket, source } => Self::new(
                Exit::Unreachable,
                "the agent is not reachable",
                format!("no agent listens on {}: {source}", socket.display()),
                "systemctl start wattled, or name its socket: wattle --socket PATH",
            ),
            ClientError::Permission { socket, .. } => Self::new(
                Exit::Permission,
                "the agent may not be asked",
                format!("{} is for root and the group wattle", socket.display()),
                "sudo adduser \"$USER\" wattle, then log in again; or use sudo",
            ),
            ClientError::Timeout(span) => Self::new(
                Exit::Timeout,
                what,
                format!("nothing came within {}", crate::human::span(span)),
                "journalctl -u wattled -n 50",
            ),
            ClientError::Protocol(why) => Self::new(
                Exit::Failure,
                what,
                why,
                "compare `wattle version` with the agent's: systemctl restart wattled",
            ),
            ClientError::Refused(refusal) => {
                let report = refusal.0;
                Self::new(exit_of(report.code), report.what, report.why, report.next)
            }
        }
    }
}

const fn exit_of(code: ErrorCode) -> Exit {
    match code {
        ErrorCode::Usage => Exit::Usage,
        ErrorCode::NotFound => Exit::NotFound,
        ErrorCode::Permission => Exit::Permission,
        ErrorCode::Timeout => Exit::Timeout,
        ErrorCode::Busy | ErrorCode::Unsupported | ErrorCode::Failure => Exit::Failure,
    }
}

/// The failure of waiting in vain.
pub(crate) fn gave_up(waiting_for: &str, span: Duration, next: &str) -> Failure {
    let why = format!("waited {}", crate::human::span(span));
    Failure::new(
        Exit::Timeout,
        format!("{waiting_for} did not come"),
        why,
        next,
    )
}

#[cfg(test)]
mod tests {
    use wattle_control::{ErrorReport, Refusal};

    use super::*;

    #[test]
    fn exit_codes_are_those_of_the_reference() {
        let codes = [
            (Exit::Failure, 1),
            (Exit::Usage, 2),
            (Exit::Unreachable, 3),
            (Exit::Permission, 4),
            (Exit::Check, 5),
            (Exit::Timeout, 6),
            (Exit::NotFound, 7),
            (Exit::Differs, 8),
        ];
        for (exit, code) in codes {
            assert_eq!(exit as u8, code);
        }
    }

    #[test]
    fn each_trouble_with_the_agent_has_its_own_code_and_a_next_step() {
        let socket = std::path::PathBuf::from("/run/wattle/wattled.sock");
        let io = |kind| io::Error::from(kind);
        let refused = |code| {
            let report = ErrorReport {
                code,
                what: "w".into(),
                why: "y".into(),
                next: "n".into(),
            };
            ClientError::Refused(Box::new(Refusal(report)))
        };
        let cases = [
            (
                ClientError::Unreachable {
                    socket: socket.clone(),
                    source: io(io::ErrorKind::NotFound),
                },
                Exit::Unreachable,
            ),
            (
                ClientError::Permission {
                    socket,
                    source: io(io::ErrorKind::PermissionDenied),
                },
                Exit::Permission,
            ),
            (ClientError::Timeout(Duration::from_secs(1)), Exit::Timeout),
            (ClientError::Protocol("x".into()), Exit::Failure),
            (refused(ErrorCode::NotFound), Exit::NotFound),
            (refused(ErrorCode::Usage), Exit::Usage),
            (refused(ErrorCode::Permission), Exit::Permission),
        ];
        for (error, exit) in cases {
            let failure = Failure::from(error);
            assert_eq!(failure.exit, exit);
            assert!(!failure.next.is_empty());
        }
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        assert!(Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)).is_broken_pipe());
        assert!(!Failure::from(io::Error::from(io::ErrorKind::StorageFull)).is_broken_pipe());
    }
}
