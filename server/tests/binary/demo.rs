//! `zql demo` starts everything, shows changes, and leaves nothing running.

use std::process::Command;

use testdata::process::free_port;

use crate::binary;

#[test]
fn starts_shows_and_stops() {
    let parent = tempfile::tempdir().expect("a folder");
    // The Postgres user has to reach its folder.
    std::fs::set_permissions(parent.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("permissions");
    let folder = parent.path().join("demo");
    let port = free_port(0).expect("a port").to_string();
    for start in ["first", "again"] {
        let output = Command::new(binary())
            .args(["demo", "--folder"])
            .arg(&folder)
            .args(["--port", &port, "--rate", "50", "--limit", "10", "--pokes", "20"])
            .output()
            .expect("zql demo");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{start}: {text}{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("complete") && text.matches("poke to").count() >= 20, "{start}: {text}");
        assert!(!folder.join("postgres/data/postmaster.pid").exists(), "{start}: Postgres still runs");
        assert!(std::net::TcpStream::connect(format!("127.0.0.1:{port}")).is_err(), "{start}: the server still runs");
    }
}
