/// What kind of failure it is, for whoever has to answer a peer. Rooms map their own errors to one of these; this is
/// the only place that knows the gRPC codes and HTTP statuses. (SIP statuses: `trunkline-edge`.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request is wrong and will be wrong again.
    Invalid,
    /// Nobody is signed in.
    Unauthenticated,
    /// Signed in, but not allowed.
    Forbidden,
    /// There is no such object.
    NotFound,
    /// The object's state or revision does not allow it.
    Conflict,
    /// A limit is reached: refuse now, may be tried later.
    Overloaded,
    /// Something needed is not reachable.
    Unavailable,
    /// The deadline passed.
    Deadline,
    /// The owner is elsewhere.
    Moved,
    /// A defect here.
    Internal,
}

impl ErrorKind {
    /// The gRPC code.
    pub const fn grpc(self) -> tonic::Code {
        match self {
            Self::Invalid => tonic::Code::InvalidArgument,
            Self::Unauthenticated => tonic::Code::Unauthenticated,
            Self::Forbidden => tonic::Code::PermissionDenied,
            Self::NotFound => tonic::Code::NotFound,
            Self::Conflict => tonic::Code::FailedPrecondition,
            Self::Overloaded => tonic::Code::ResourceExhausted,
            Self::Unavailable => tonic::Code::Unavailable,
            Self::Deadline => tonic::Code::DeadlineExceeded,
            Self::Moved => tonic::Code::Aborted,
            Self::Internal => tonic::Code::Internal,
        }
    }

    /// The HTTP status.
    pub const fn http(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::Unauthenticated => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::Overloaded => 429,
            Self::Unavailable | Self::Moved => 503,
            Self::Deadline => 504,
            Self::Internal => 500,
        }
    }

    /// The kind of what a request ended with. When the connection failed under it, tonic's code says how the two parts of
    /// HTTP noticed (`Cancelled`, `Unknown`, `Internal`); for who asked it is always the same: nobody answered.
    pub fn of(status: &tonic::Status) -> Self {
        let mut cause = std::error::Error::source(status);
        if cause.is_some() {
            while let Some(error) = cause {
                if error.is::<tonic::TimeoutExpired>() {
                    return Self::Deadline;
                }
                cause = error.source();
            }
            return Self::Unavailable;
        }
        match status.code() {
            tonic::Code::InvalidArgument | tonic::Code::OutOfRange => Self::Invalid,
            tonic::Code::Unauthenticated => Self::Unauthenticated,
            tonic::Code::PermissionDenied => Self::Forbidden,
            tonic::Code::NotFound => Self::NotFound,
            tonic::Code::FailedPrecondition | tonic::Code::AlreadyExists => Self::Conflict,
            tonic::Code::ResourceExhausted => Self::Overloaded,
            tonic::Code::Unavailable | tonic::Code::Cancelled => Self::Unavailable,
            tonic::Code::DeadlineExceeded => Self::Deadline,
            tonic::Code::Aborted => Self::Moved,
            _ => Self::Internal,
        }
    }

    /// A gRPC status of this kind.
    pub fn status(self, message: impl Into<String>) -> tonic::Status {
        tonic::Status::new(self.grpc(), message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_survive_the_way_through_grpc() {
        for kind in [
            ErrorKind::Invalid,
            ErrorKind::Unauthenticated,
            ErrorKind::Forbidden,
            ErrorKind::NotFound,
            ErrorKind::Conflict,
            ErrorKind::Overloaded,
            ErrorKind::Unavailable,
            ErrorKind::Deadline,
            ErrorKind::Moved,
            ErrorKind::Internal,
        ] {
            assert_eq!(ErrorKind::of(&kind.status("why")), kind);
        }
    }

    #[test]
    fn a_connection_that_fails_is_nobody_who_answers() {
        let broken = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let status = tonic::Status::from_error(Box::new(broken));
        assert_eq!(ErrorKind::of(&status), ErrorKind::Unavailable, "{status:?}");
        let late = tonic::Status::from_error(Box::new(tonic::TimeoutExpired(())));
        assert_eq!(ErrorKind::of(&late), ErrorKind::Deadline, "{late:?}");
    }
}
