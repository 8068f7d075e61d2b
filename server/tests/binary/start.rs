//! `zql serve` that cannot start: what it says, and the exit code by which an orchestrator knows whether to try again.

use std::process::Command;

const DB: (&str, &str) = ("ZERO_UPSTREAM_DB", "postgres://127.0.0.1:1/nowhere");
const PASSWORD: (&str, &str) = ("ZERO_ADMIN_PASSWORD", "p");

#[test]
fn settings_that_are_missing_or_wrong() {
    let folder = tempfile::tempdir().expect("a folder");
    for (settings, code, message) in [
        (&[PASSWORD][..], 255, "Missing required option ZERO_UPSTREAM_DB"),
        (&[DB], 255, "missing --admin-password: required in production mode"),
        (&[DB, ("NODE_ENV", "production")], 255, "missing --admin-password: required in production mode"),
        (&[DB, PASSWORD, ("ZERO_PORT", "x")], 255, "Invalid input for ZERO_PORT: \"x\""),
        // These get as far as the database.
        (&[DB, PASSWORD], 14, "Connection refused"),
        (&[DB, ("NODE_ENV", "development")], 14, "Connection refused"),
    ] {
        let mut command = Command::new(crate::binary());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ZERO_") || name == "NODE_ENV") {
            command.env_remove(name);
        }
        let output = command.arg("serve").current_dir(folder.path()).envs(settings.iter().copied()).output();
        let output = output.expect("it runs");
        let said = [&*output.stdout, &*output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert_eq!(output.status.code(), Some(code), "{settings:?}: {said}");
        assert!(said.contains(message), "{settings:?}: {said}");
    }
}
