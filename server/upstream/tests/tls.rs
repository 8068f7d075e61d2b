//! What each `sslmode` accepts of a server's certificate, on every kind of connection: the set-up's sessions and the
//! replication stream.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use testdata::postgres::{Identity, Options, Postgres};
use upstream::Error;

use crate::harness::World;

/// The only name in the server's certificate.
const NAME: &str = "localhost";

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    fn identity(&self) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec![NAME.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap().pem();
        Identity { certificate, key: key.serialize_pem() }
    }

    fn write(&self, file: &Path) -> String {
        std::fs::write(file, &self.pem).unwrap();
        file.display().to_string()
    }
}

/// The kinds of sessions of the server under test, and whether they are encrypted.
const SESSIONS: &str = "
     SELECT string_agg(DISTINCT CASE WHEN backend_type = 'walsender' THEN 'stream ' ELSE 'session ' END || ssl, ',')
     FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) WHERE application_name LIKE 'zero-%' AND datname = current_database()";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn modes_accept_what_libpq_accepts() {
    let (ours, foreign) = (Authority::new("ours"), Authority::new("foreign"));
    let folder = tempfile::tempdir().unwrap();
    let our_root = ours.write(&folder.path().join("ours.pem"));
    let foreign_root = foreign.write(&folder.path().join("foreign.pem"));
    let options = Options { tls: Some(ours.identity()), ..Options::default() };
    let postgres: &'static Postgres = Box::leak(Box::new(Postgres::start(options).unwrap()));
    let port = postgres.port();

    // Host, parameters, whether it is encrypted or what the refusal says.
    let cases: [(&str, String, Result<bool, &str>); 13] = [
        (NAME, "sslmode=disable".to_owned(), Ok(false)),
        (NAME, String::new(), Ok(true)),
        (NAME, "sslmode=prefer".to_owned(), Ok(true)),
        ("127.0.0.1", "sslmode=require".to_owned(), Ok(true)),
        ("127.0.0.1", "sslmode=no-verify".to_owned(), Ok(true)),
        ("127.0.0.1", "ssl=true".to_owned(), Ok(true)),
        ("127.0.0.1", format!("sslmode=verify-ca&sslrootcert={our_root}"), Ok(true)),
        (NAME, format!("sslmode=verify-full&sslrootcert={our_root}"), Ok(true)),
        ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={our_root}"), Err("not valid for name")),
        ("127.0.0.1", format!("sslmode=verify-ca&sslrootcert={foreign_root}"), Err("UnknownIssuer")),
        (NAME, format!("sslmode=verify-full&sslrootcert={foreign_root}"), Err("UnknownIssuer")),
        (NAME, "sslmode=verify-ca".to_owned(), Err("UnknownIssuer")),
        (NAME, "sslmode=verify-full&sslrootcert=/nowhere.pem".to_owned(), Err("/nowhere.pem")),
    ];
    for (host, parameters, expected) in cases {
        let mut world = World::on(postgres, "CREATE TABLE t (id int PRIMARY KEY)");
        let database = world.url.rsplit('/').next().unwrap().split('?').next().unwrap();
        world.config.upstream_url = format!("postgres://postgres@{host}:{port}/{database}?{parameters}");
        match expected {
            Ok(encrypted) => {
                let mut followed = world.follow().await;
                followed.after(&world, "INSERT INTO t VALUES (1)").await;
                assert_eq!(crate::harness::dump(&world.path())["t"].len(), 1, "{parameters}");
                let sessions = world.sql(SESSIONS);
                assert!(sessions.contains(&format!("stream {encrypted}")), "{parameters}: {sessions}");
                assert!(!sessions.contains(&(!encrypted).to_string()), "{parameters}: {sessions}");
            }
            Err(part) => {
                let error = world.try_start().await.err().unwrap();
                assert!(matches!(error, Error::Config(_)), "{parameters}: {error:?}");
                let text = error.to_string();
                assert!(text.contains(part) && text.contains("sslrootcert"), "{parameters}: {text}");
            }
        }
    }
}
