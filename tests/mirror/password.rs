//! The URL of the database in a file: its password changes while the mirror runs.

use std::{
    io::{self, Write},
    path::Path,
    sync::{Arc, Mutex},
};

use crofter::db::{self, JobsWanted, Options, Pool, UrlSource};
use crofter_test_cluster::{DatabaseServer, wait};
use tracing_subscriber::fmt::MakeWriter;
use uuid::Uuid;

use crate::{
    objects::tenant,
    world::{WAIT_TIMEOUT, World, soon, until},
};

const TENANTS: &str = "SELECT count(*)::text FROM tenants";
const SECRETS: [&str; 4] = ["first-secret", "second-secret", "wrong-secret", "third-secret"];

/// What a test logs.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// Waits until these words are logged.
    async fn until(&self, words: &str) {
        let check = || {
            let text = self.text();
            std::future::ready(if text.contains(words) { Ok(()) } else { Err(text) })
        };
        wait::until(WAIT_TIMEOUT, words, check).await.unwrap();
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Replaces a file as a kubelet does: at once.
fn replace(file: &Path, text: &str) {
    let whole = file.with_extension("new");
    std::fs::write(&whole, text).unwrap();
    std::fs::rename(whole, file).unwrap();
}

impl World {
    /// Ends all connections of the mirror.
    async fn terminate(&self) {
        self.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = 'crofter'",
        )
        .await;
    }

    /// The URL of the role whose password changes.
    fn rotating(&self, password: &str) -> String {
        let (_, place) = self.url.split_once('@').unwrap();
        format!("postgres://rotating:{password}@{place}")
    }
}

#[tokio::test]
async fn a_rotated_password_is_used_without_a_restart() {
    let log = Log::default();
    // While one dispatcher exists, callsites ask that of the thread that runs first into them, which may be another test's.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    // All but the statements of this test itself, which set passwords.
    let lines = tracing_subscriber::fmt().with_env_filter("trace,sqlx::query=off").with_writer(log.clone());
    let _guard = tracing::subscriber::set_default(lines.finish());
    // Step 1: the mirror writes with the first password.
    let server = DatabaseServer::start().unwrap();
    let mut world = World::on(&server).await;
    world.execute("CREATE ROLE rotating LOGIN SUPERUSER PASSWORD 'first-secret'").await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("url");
    replace(&file, &(world.rotating("first-secret") + "\n"));
    world.url_file = Some(file.clone());
    let mirror = world.start().await;
    world.tenants.apply(tenant("one", 1)).await;
    world.sees(TENANTS, "1").await;
    // Step 2: the password is rotated and all connections end. The mirror is refused until the file has the new one.
    world.execute("ALTER ROLE rotating PASSWORD 'second-secret'").await;
    world.terminate().await;
    world.tenants.apply(tenant("two", 2)).await;
    log.until("Postgres refused the login").await;
    world.sees(TENANTS, "1").await;
    replace(&file, &world.rotating("second-secret"));
    world.sees(TENANTS, "2").await;
    // Step 3: files that hold no URL, or that of another database: the URL before is used.
    let (elsewhere, unlike) = (world.rotating("wrong-secret"), "postgres//rotating:wrong-secret@h/d");
    let elsewhere = format!("{}_other", elsewhere);
    for (number, text, words) in [(3, unlike, "it is no URL"), (4, &elsewhere, "it names another database")] {
        replace(&file, text);
        world.terminate().await;
        world.tenants.apply(tenant(&format!("n{number}"), number)).await;
        log.until(words).await;
        world.sees(TENANTS, ["3", "4"][usize::try_from(number).unwrap() - 3]).await;
    }
    // Step 4: a wrong password is tried until the file has the right one.
    replace(&file, &world.rotating("wrong-secret"));
    world.terminate().await;
    world.tenants.apply(tenant("five", 5)).await;
    until("the mirror to be behind", || mirror.handle.behind()).await;
    world.execute("ALTER ROLE rotating PASSWORD 'third-secret'").await;
    replace(&file, &world.rotating("third-secret"));
    world.sees(TENANTS, "5").await;
    // Step 5: no password is in the log, and each cause is there.
    let text = log.text();
    for secret in SECRETS {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
    assert_eq!(text.matches("it is no URL").count(), 1, "{text}");
    assert!(text.contains("new connections use it"), "{text}");
}

#[tokio::test]
async fn readers_use_a_rotated_password_too() {
    let mut world = World::new().await;
    db::migrate(&world.pool()).await.unwrap();
    world.execute("CREATE ROLE reading LOGIN SUPERUSER PASSWORD 'first-secret'").await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("url");
    let url = |world: &World, password| world.rotating(password).replace("rotating", "reading");
    replace(&file, &url(&world, "first-secret"));
    world.url_file = Some(file.clone());
    let readers = world.readers(2);
    let read = async || {
        let wanted = JobsWanted { most: 10, ..JobsWanted::default() };
        db::jobs_of(&readers, Uuid::from_u128(1), wanted).await.map(drop).map_err(|error| error.to_string())
    };
    soon(read()).await.unwrap();
    world.execute("ALTER ROLE reading PASSWORD 'second-secret'").await;
    world.terminate().await;
    let error = read().await.unwrap_err();
    assert!(error.contains("Postgres refused the login") && !error.contains("secret"), "{error}");
    replace(&file, &url(&world, "second-secret"));
    // The history is asked again in the background.
    let check = async || read().await;
    wait::until(WAIT_TIMEOUT, "the history", check).await.unwrap();
}

#[tokio::test]
async fn at_the_start_the_file_must_hold_a_url() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("url");
    let error = || Pool::new(&UrlSource::File(file.clone()), Options::default()).unwrap_err();
    let absent = error().to_string();
    assert!(absent.starts_with("failed to read the file of the database URL: failed to read /"), "{absent}");
    assert!(absent.contains("/url: No such file"), "{absent}");
    for text in ["", "first-secret", "mysql://u:first-secret@h/d", "postgres://u:12#first-secret@h/d"] {
        std::fs::write(&file, text).unwrap();
        let error = error();
        let both = format!("{error} {error:?}");
        assert!(
            both.contains("failed to read the file of the database URL") && !both.contains("secret"),
            "{both}"
        );
    }
}
