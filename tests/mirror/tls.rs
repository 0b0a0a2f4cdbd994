//! TLS to Postgres: what each `sslmode` of the URL accepts and refuses, against a server with a certificate.

use std::{path::Path, time::Duration};

use crofter::db::{self, Options, Pool};
use crofter_test_cluster::{
    DatabaseServer,
    pki::{Identity, Pki},
    wait,
};
use sqlx::{Connection, PgConnection};

use crate::world::{CALL, WAIT_TIMEOUT};

/// A server with a certificate for `localhost`, and a database in it.
struct Secured {
    _server: DatabaseServer,
    dir: tempfile::TempDir,
    pki: Pki,
    url: String,
}

/// Runs a statement as the superuser.
async fn execute(url: &str, statement: &str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned())).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

/// Writes lines into a file of the server's directory, which only it may read.
async fn write(url: &str, file: &str, text: &str) {
    let lines = format!("SELECT unnest(string_to_array($text${text}$text$, E'\\n'))");
    execute(url, &format!("COPY ({lines}) TO PROGRAM 'umask 077; cat > {file}'")).await;
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap()
}

impl Secured {
    async fn start() -> Self {
        let server = DatabaseServer::start().unwrap();
        let url = server.create_database("secured").await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::create(dir.path()).unwrap();
        let own = pki.issue("server", "postgres", &[], &["localhost"]).unwrap();
        for (file, from) in [
            ("server.crt", &own.certificate),
            ("server.key", &own.key),
            ("root.crt", &pki.authority().certificate),
        ] {
            write(&url, file, &read(from)).await;
        }
        // `by_certificate` logs in by a client certificate alone, all others by their passwords.
        write(&url, "pg_hba.conf", "hostssl all by_certificate all cert\nhost all all all scram-sha-256")
            .await;
        execute(&url, "CREATE ROLE by_certificate LOGIN SUPERUSER").await;
        execute(&url, "ALTER SYSTEM SET ssl_ca_file = 'root.crt'").await;
        execute(&url, "ALTER SYSTEM SET ssl = on").await;
        execute(&url, "SELECT pg_reload_conf()").await;
        let secured = Self { _server: server, dir, pki, url };
        let check = async || secured.ping("localhost", "sslmode=require").await;
        wait::until(WAIT_TIMEOUT, "the server to speak TLS", check).await.unwrap();
        secured
    }

    /// The URL with another host and more parameters.
    fn url(&self, host: &str, parameters: &str) -> String {
        format!("{}?{parameters}", self.url.replace("127.0.0.1", host))
    }

    fn pool(&self, host: &str, parameters: &str) -> Pool {
        let options = Options { connections: 1, connect: CALL, call: CALL };
        Pool::new(&self.url(host, parameters).as_str().into(), options).unwrap()
    }

    /// Whether the connection of such a URL is encrypted, or why there is none.
    async fn ping(&self, host: &str, parameters: &str) -> Result<bool, String> {
        let pool = self.pool(host, parameters);
        db::ping(&pool, CALL).await.map_err(|error| format!("{error} {error:?}"))?;
        let mut observer = PgConnection::connect(&self.url).await.unwrap();
        let ssl =
            "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'crofter'
                   ORDER BY backend_start DESC LIMIT 1";
        let encrypted: bool = sqlx::query_scalar(ssl).fetch_one(&mut observer).await.unwrap();
        drop(pool);
        Ok(encrypted)
    }

    fn root(&self) -> String {
        self.pki.authority().certificate.display().to_string()
    }

    /// The root of another authority.
    fn other_root(&self) -> String {
        let dir = self.dir.path().join("other");
        std::fs::create_dir_all(&dir).unwrap();
        Pki::create(&dir).unwrap().authority().certificate.display().to_string()
    }
}

#[tokio::test]
async fn each_ssl_mode_accepts_what_libpq_does() {
    let secured = Secured::start().await;
    let (root, other) = (secured.root(), secured.other_root());
    // What connects, and whether it is encrypted.
    for (host, parameters, encrypted) in [
        ("127.0.0.1", "sslmode=disable".to_owned(), false),
        ("127.0.0.1", "sslmode=allow".to_owned(), false),
        ("127.0.0.1", String::new(), true),
        ("127.0.0.1", "sslmode=prefer".to_owned(), true),
        ("127.0.0.1", "sslmode=require".to_owned(), true),
        ("127.0.0.1", format!("sslmode=require&sslrootcert={root}"), true),
        ("127.0.0.1", format!("sslmode=verify-ca&sslrootcert={root}"), true),
        ("localhost", format!("sslmode=verify-full&sslrootcert={root}"), true),
    ] {
        assert_eq!(secured.ping(host, &parameters).await, Ok(encrypted), "{host} {parameters}");
    }
    // What is refused: the error names the host and the cause, and never the password.
    let unknown = "invalid peer certificate: UnknownIssuer";
    // The other authority has the same name, and another key.
    let foreign = "invalid peer certificate: BadSignature";
    let password = secured.url.split([':', '@']).nth(2).unwrap();
    for (host, parameters, cause) in [
        ("127.0.0.1", format!("sslmode=require&sslrootcert={other}"), foreign),
        ("127.0.0.1", format!("sslmode=verify-ca&sslrootcert={other}"), foreign),
        ("127.0.0.1", "sslmode=verify-ca".to_owned(), unknown),
        ("localhost", "sslmode=verify-full".to_owned(), unknown),
        (
            "127.0.0.1",
            format!("sslmode=verify-full&sslrootcert={root}"),
            "certificate not valid for name \"127.0.0.1\"; certificate is only valid for DnsName(\"localhost\")",
        ),
    ] {
        let error = secured.ping(host, &parameters).await.unwrap_err();
        let begins = format!("failed to make a TLS connection to {host}: ");
        assert!(error.contains(&begins) && error.contains(cause), "{host} {parameters}: {error}");
        assert!(!error.contains(password), "{error}");
    }
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_tls_is_required() {
    let server = DatabaseServer::start().unwrap();
    let url = server.create_database("plain").await.unwrap();
    for (mode, accepted) in [
        ("disable", true),
        ("prefer", true),
        ("require", false),
        ("verify-ca", false),
        ("verify-full", false),
    ] {
        let pool = Pool::new(&format!("{url}?sslmode={mode}").as_str().into(), Options::default()).unwrap();
        match db::ping(&pool, CALL).await {
            Ok(()) => assert!(accepted, "{mode}"),
            Err(error) => {
                let words = "failed to make a TLS connection to 127.0.0.1: server does not support TLS";
                assert!(!accepted && error.to_string().contains(words), "{mode}: {error}");
            }
        }
    }
}

#[tokio::test]
async fn a_client_certificate_logs_in_and_a_renewed_one_needs_no_restart() {
    let secured = Secured::start().await;
    let pki = &secured.pki;
    let Identity { certificate, key } = pki.issue("client", "by_certificate", &[], &[]).unwrap();
    let password = secured.url.split([':', '@']).nth(2).unwrap();
    let url = secured.url.replace(&format!("postgres:{password}"), "by_certificate");
    let (certificate, key) = (certificate.display(), key.display());
    let url = format!("{url}?sslmode=require&sslcert={certificate}&sslkey={key}");
    let options = Options { connections: 1, connect: CALL, call: CALL };
    let pool = Pool::new(&url.as_str().into(), options).unwrap();
    db::ping(&pool, CALL).await.unwrap();
    // The files become those of another user, which the server refuses: new connections have read them again.
    pki.issue("client", "another-user", &[], &[]).unwrap();
    let refused = async || {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'crofter'";
        execute(&secured.url, end).await;
        match db::ping(&pool, CALL).await {
            Err(error) if error.to_string().contains("Postgres refused the login") => Ok(()),
            other => Err(other.map_err(|error| error.to_string())),
        }
    };
    wait::until(WAIT_TIMEOUT, "the certificate of another user to be used", refused).await.unwrap();
    pki.issue("client", "by_certificate", &[], &[]).unwrap();
    db::ping(&pool, CALL).await.unwrap();
}

#[tokio::test]
async fn a_renewed_authority_needs_no_restart() {
    let secured = Secured::start().await;
    let file = secured.dir.path().join("mounted.crt");
    std::fs::copy(secured.other_root(), &file).unwrap();
    let pool = secured.pool("localhost", &format!("sslmode=verify-full&sslrootcert={}", file.display()));
    let deadline = Duration::from_secs(10);
    let error = db::ping(&pool, deadline).await.unwrap_err().to_string();
    assert!(error.contains("invalid peer certificate: BadSignature"), "{error}");
    std::fs::copy(secured.root(), &file).unwrap();
    db::ping(&pool, deadline).await.unwrap();
}
