//! What the errors of `hdfs-native` and of a NameNode mean for code that decides what to do next.

use std::time::Duration;

use hdfs_native::HdfsError;

use super::super::{StoreError, StoreErrorKind};

/// The error of a call that was not answered in time.
pub(super) fn late(attempted: &'static str, target: String, limit: Duration) -> StoreError {
    StoreError {
        kind: StoreErrorKind::TimedOut,
        attempted,
        target,
        reason: format!("no answer within {limit:?}; is the NameNode well, and the network?"),
    }
}

/// The error of a call that HDFS refused or could not do.
pub(super) fn failed(attempted: &'static str, target: String, error: HdfsError) -> StoreError {
    let (kind, remedy) = kind_of(&error);
    let reason = match &error {
        // the class and the stack trace are for Java; the first line says what is wrong
        HdfsError::RPCError(_, text) | HdfsError::FatalRPCError(_, text) => {
            text.lines().next().unwrap_or_default().to_owned()
        }
        other => other.to_string(),
    };
    StoreError { kind, attempted, target, reason: format!("{reason}{remedy}") }
}

fn kind_of(error: &HdfsError) -> (StoreErrorKind, &'static str) {
    use StoreErrorKind::{AlreadyExists, Corrupt, Denied, NotFound, Unavailable};
    match error {
        HdfsError::RPCError(class, _) | HdfsError::FatalRPCError(class, _) => kind_of_class(class),
        HdfsError::FileNotFound(_)
        | HdfsError::IsADirectoryError(_)
        | HdfsError::InvalidPath(_)
        | HdfsError::UrlParseError(_) => (NotFound, ""),
        HdfsError::AlreadyExists(_) => (AlreadyExists, ""),
        HdfsError::ChecksumError | HdfsError::InvalidRPCResponse(_) => (Corrupt, ""),
        HdfsError::SASLError(_) | HdfsError::GSSAPIError(..) | HdfsError::NoSASLMechanism => {
            (Denied, "; is there a valid Kerberos ticket?")
        }
        HdfsError::IOError(_) => {
            (Unavailable, "; is the NameNode running, and is this its address and RPC port?")
        }
        HdfsError::DataTransferError(_) | HdfsError::BlocksNotFound(_) => {
            (Unavailable, "; all replicas are away or damaged: `hdfs fsck` on the path says which")
        }
        HdfsError::XmlParseError(_) => (Unavailable, "; look at the files in HADOOP_CONF_DIR"),
        HdfsError::InvalidArgument(_)
        | HdfsError::OperationFailed(_)
        | HdfsError::TrashNotEnabled
        | HdfsError::UnsupportedErasureCodingPolicy(_)
        | HdfsError::ErasureCodingError(_)
        | HdfsError::UnsupportedFeature(_)
        | HdfsError::InternalError(_) => (Unavailable, ""),
    }
}

/// By the Java class that the NameNode names. An unknown one is worth another try.
fn kind_of_class(class: &str) -> (StoreErrorKind, &'static str) {
    match class.rsplit('.').next().unwrap_or(class) {
        "FileNotFoundException"
        | "PathIsNotDirectoryException"
        | "ParentNotDirectoryException"
        | "LeaseExpiredException" => (StoreErrorKind::NotFound, ""),
        "FileAlreadyExistsException" | "AlreadyBeingCreatedException" => {
            (StoreErrorKind::AlreadyExists, "")
        }
        "AccessControlException" | "AuthorizationException" | "InvalidToken" => {
            (StoreErrorKind::Denied, "; grant this user access, or set HADOOP_USER_NAME")
        }
        "NSQuotaExceededException" | "DSQuotaExceededException" => {
            (StoreErrorKind::Unavailable, "; raise the directory's quota or delete from it")
        }
        "SafeModeException" | "RetriableException" => {
            (StoreErrorKind::Unavailable, "; it takes changes again when it leaves safe mode")
        }
        _ => (StoreErrorKind::Unavailable, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_name_node_says_is_told_apart_by_its_class() {
        let kind = |class: &str| {
            let error = HdfsError::RPCError(class.to_owned(), "first\n\tat second".to_owned());
            let error = failed("read", "hdfs://h:1/x".to_owned(), error);
            assert!(!error.reason.contains("second"), "{error}");
            error.kind
        };
        assert_eq!(kind("java.io.FileNotFoundException"), StoreErrorKind::NotFound);
        let denied = "org.apache.hadoop.security.AccessControlException";
        assert_eq!(kind(denied), StoreErrorKind::Denied);
        let safe_mode = "org.apache.hadoop.hdfs.server.namenode.SafeModeException";
        assert_eq!(kind(safe_mode), StoreErrorKind::Unavailable);
        assert_eq!(kind("java.lang.Error"), StoreErrorKind::Unavailable);
    }
}
