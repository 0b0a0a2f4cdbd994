use sqlx::postgres::PgPoolOptions;

use super::*;

fn given(url: &str) -> Result<Loaded, UrlError> {
    UrlSource::from(url).load()
}

#[test]
fn what_can_not_be_used_is_named_without_the_password() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(at("junk"), "geheim").unwrap();
    let key = "-----BEGIN ENCRYPTED PRIVATE KEY-----\ngeheim\n-----END ENCRYPTED PRIVATE KEY-----\n";
    std::fs::write(at("key"), key).unwrap();
    for (url, words) in [
        ("geheim".to_owned(), "it is no URL"),
        ("postgres://u:ge#heim@h/d".to_owned(), "it is no URL (invalid port number)"),
        ("postgres://u:12#geheim@h/d".to_owned(), "write %23 in its place"),
        ("mysql://u:geheim@h/d".to_owned(), "it must begin with postgres://"),
        ("postgres://u:geheim@h/d?sslmode=strict".to_owned(), "unknown value \"strict\" for `ssl_mode`"),
        (format!("postgres://u:geheim@h/d?sslrootcert={}", at("absent")), "absent: No such file"),
        (format!("postgres://u:geheim@h/d?sslrootcert={}", at("junk")), "junk: it has no certificate"),
        (format!("postgres://u:geheim@h/d?sslcert={}", at("junk")), "failed to load sslcert"),
        (format!("postgres://u:geheim@h/d?sslkey={}", at("key")), "its private key is encrypted"),
    ] {
        let error = given(&url).err().unwrap();
        let text = format!("{error} {error:?}");
        assert!(text.contains(words) && !text.contains("geheim"), "{url}: {text}");
    }
}

#[test]
fn authorities_are_checked_though_the_mode_is_require() {
    let dir = tempfile::tempdir().unwrap();
    let pki = crofter_test_cluster::pki::Pki::create(dir.path()).unwrap();
    let root = pki.authority().certificate.display().to_string();
    for (url, expected) in [
        ("postgres://h/d".to_owned(), "Prefer"),
        ("postgres://h/d?sslmode=require".to_owned(), "Require"),
        (format!("postgres://h/d?sslmode=require&sslrootcert={root}"), "VerifyCa"),
        (format!("postgres://h/d?sslrootcert={root}&sslmode=require"), "VerifyCa"),
        (format!("postgres://h/d?sslrootcert={root}&sslmode=verify-full"), "VerifyFull"),
    ] {
        let loaded = given(&url).unwrap();
        assert_eq!(format!("{:?}", loaded.connect.get_ssl_mode()), expected, "{url}");
        assert_eq!(loaded.is_fixed, !url.contains("sslrootcert"), "{url}");
    }
}

#[test]
fn parameters_that_are_not_known_are_ignored_by_their_names() {
    let url = "postgres://u:p%3Fw@h:7/d?channel_binding=require&sslpassword=geheim&options[search_path]=x&port=8&he%40im=1";
    let loaded = given(url).unwrap();
    assert_eq!(loaded.ignored, ["channel_binding", "sslpassword", "he@im"]);
    assert_eq!(named(&loaded.ignored).collect::<Vec<_>>(), ["channel_binding", "sslpassword"]);
    assert_eq!(loaded.connect.get_options(), Some("-c search_path=x"));
    assert_eq!(place(&loaded.connect), "h:8/d");
}

#[tokio::test]
async fn a_file_is_read_again_and_only_a_url_of_the_same_database_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("url");
    std::fs::write(&file, "postgres://one:geheim@h/d\n").unwrap();
    let (current, connect) = CurrentUrl::load(UrlSource::File(file.clone())).unwrap();
    let pool = PgPoolOptions::new().connect_lazy_with(connect);
    for (text, user) in [
        ("postgres://two:geheim@h/d", "two"),
        ("postgres://three:geheim@elsewhere/d", "two"),
        ("postgres://three:geheim@h/other", "two"),
        ("postgres://three:geheim@h:5433/d", "two"),
        ("geheim", "two"),
        ("postgresql://four:geheim@h:5432/d?sslmode=disable", "four"),
    ] {
        std::fs::write(&file, text).unwrap();
        current.refresh(&pool).await;
        assert_eq!(pool.connect_options().get_username(), user, "{text}");
    }
    std::fs::remove_file(&file).unwrap();
    current.refresh(&pool).await;
    assert_eq!(pool.connect_options().get_username(), "four");
}
