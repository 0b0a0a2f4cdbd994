//! `crofter import`: the whole way from a database of the service that is replaced to jobs that have run.

use std::process::Output;

use crofter::{api_types::JobPhase, yaml};
use kube::{Api, ResourceExt, api::ListParams};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::process::Command;

use crate::{
    common::{WAIT_TIMEOUT, now},
    world,
};

const TABLES: &str = include_str!("import/tables.sql");
const SINGLE: &str = include_str!("import/single.sql");

/// A database of the service that is replaced, which these statements have made; its URL.
async fn database(name: &str, statements: &[&'static str]) -> String {
    let own = world().database_url().unwrap();
    let mut connection = PgConnection::connect(own).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut connection).await.unwrap();
    let (server, _) = own.rsplit_once('/').unwrap();
    let url = format!("{server}/{name}");
    let mut connection = PgConnection::connect(&url).await.unwrap();
    for all in statements {
        sqlx::raw_sql(*all).execute(&mut connection).await.unwrap();
    }
    url
}

async fn import(url: &str, flags: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_crofter"));
    command.arg("import").args(flags).env("CROFTER_IMPORT_URL", url).kill_on_drop(true);
    command.env("KUBECONFIG", world().cluster.kubeconfig());
    tokio::time::timeout(WAIT_TIMEOUT, command.output()).await.expect("the import to end").unwrap()
}

/// The report of an import that has ended well.
fn report(output: &Output) -> String {
    let report = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(output.status.success(), "{report}");
    report
}

/// What an import that writes nothing prints.
fn objects(output: &Output) -> Vec<Value> {
    yaml::read_all(std::str::from_utf8(&output.stdout).unwrap()).unwrap()
}

/// Names of these objects, with their namespaces.
fn names(objects: &[Value]) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name =
        |object: &Value| [&object["metadata"]["namespace"], &object["metadata"]["name"]].map(text).join("/");
    objects.iter().map(name).collect()
}

#[tokio::test]
async fn tenants_and_waiting_jobs_are_imported_once_and_run() {
    let verbs = world().verbs().await;
    // Other tests have a tenant `default`.
    let rest = "UPDATE tenants SET name = 'moved-rest' WHERE id = 'default'";
    let url = database("import_tables", &[TABLES, rest]).await;
    let rest = ["--tenant", "moved-rest"];
    // When it is printed, each tenant and waiting job is an object, and the report has the rest.
    let printed = import(&url, &rest).await;
    let all = objects(&printed);
    let expected = [
        "/moved-corp",
        "/moved-late",
        "/moved-rest",
        "tenant-moved-rest/imported-4",
        "tenant-moved-corp/imported-2",
        "tenant-moved-late/imported-6",
    ];
    assert_eq!(names(&all), expected, "jobs oldest first");
    assert_eq!(
        all[0]["spec"],
        json!({"displayName": "Moved Corporation", "plan": "basic", "expiresAt": "2099-01-01T00:00:00Z",
            "quotas": {"maxJobs": 30, "maxJobsPerHour": -1}, "metadata": {"billing": "{\"account\":7}"}}),
    );
    let said = report(&printed);
    for line in [
        "imported: 3 tenants, 3 jobs\n",
        "tenant `Moved Corp.`: its name is moved-corp\n",
        "tenant `moved-gone`: it is deleted\n",
        "job j-3: it is running there: import again when it has ended or is queued\n",
        "job j-5: its parameter `a b` can't be one: see spec.parameters of a Job\n",
        "job j-7: its tenant is not imported\n",
        "1 jobs that are completed: history stays in the old database\n",
        "scenarios that the catalogue must have: 4k60-h264\n",
        "label it crofter.node-restriction.kubernetes.io/tenant=moved-corp\n",
    ] {
        assert!(said.contains(line), "{line}{said}");
    }

    // When the cluster only checks it, nothing is there.
    let image = [&["--apply", "--image", "crofter.test/busybox:1"], &rest[..]].concat();
    let tried = report(&import(&url, &[&image[..], &["--dry-run"]].concat()).await);
    assert!(tried.contains("imported: 3 tenants, 0 jobs\n") && tried.contains("not there yet"), "{tried}");
    let tenants: Api<crofter::api_types::Tenant> = verbs.all();
    assert!(tenants.get_opt("moved-corp").await.unwrap().is_none());

    // When it is applied, the jobs run on the tenant's nodes, and not again after the next import.
    let begun = now();
    let said = report(&import(&url, &image).await);
    assert!(said.contains("imported: 3 tenants, 3 jobs\n"), "{said}");
    verbs.worker("import-1", "moved-corp", "4").await;
    let done = verbs.until_phase("moved-corp", "imported-2", JobPhase::Completed).await;
    assert_eq!((done.spec.parameters["scenario"].0.as_str(), done.spec.max_retries), ("4K60-h264", 3));
    assert_eq!(verbs.until_reason("moved-late", "imported-6", "TenantSuspended").await.spec.max_retries, 1);
    let again = report(&import(&url, &image).await);
    assert!(again.contains("imported: 3 tenants, 0 jobs; 3 jobs were there already\n"), "{again}");
    let jobs = verbs.jobs("moved-corp").list(&ListParams::default()).await.unwrap().items;
    let of_import: Vec<String> = jobs.iter().map(ResourceExt::name_any).collect();
    assert_eq!(of_import, ["imported-2"]);
    assert!(jobs[0].creation_timestamp().unwrap().0.as_second() >= begun.as_second());
}

#[tokio::test]
async fn what_people_have_changed_since_stays_and_is_reported() {
    let verbs = world().verbs().await;
    let rename = "UPDATE tenants SET name = replace(name, 'moved', 'kept'); DELETE FROM tenants WHERE id IN ('default', 'b2c4')";
    let url = database("import_changed", &[TABLES, rename]).await;
    // Given: an imported tenant whose plan is then changed, and a job of the name that an imported one would have.
    assert!(
        report(&import(&url, &["--apply", "--image", "i", "--tenant", "kept-late"]).await)
            .contains("1 tenants")
    );
    verbs.patch_tenant("kept-late", json!({"spec": {"plan": "free"}})).await.unwrap();
    let jobs = verbs.jobs("kept-late");
    jobs.delete("imported-6", &Default::default()).await.unwrap();
    verbs.until_deleted(&jobs, "imported-6").await;
    verbs.job("kept-late", "imported-6", json!({})).await;
    // When it is imported again, both stay, and the report says so.
    let again = import(&url, &["--apply", "--image", "i", "--tenant", "kept-late"]).await;
    let said = String::from_utf8(again.stderr.clone()).unwrap();
    assert_eq!(again.status.code(), Some(1), "{said}");
    assert!(
        said.contains("tenant `kept-late`: it was changed since it was imported (.spec.plan by "),
        "{said}"
    );
    let tenants: Api<crofter::api_types::Tenant> = verbs.all();
    assert_eq!(tenants.get("kept-late").await.unwrap().spec.plan, "free");
    let back = "UPDATE tenants SET plan = 'free'";
    let mut connection = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql(back).execute(&mut connection).await.unwrap();
    let again = import(&url, &["--apply", "--image", "i", "--tenant", "kept-late"]).await;
    let said = String::from_utf8(again.stderr).unwrap();
    assert!(said.contains("job j-6: there is another object of that name"), "{said}");
}

#[tokio::test]
async fn a_database_from_before_there_were_tenants_goes_to_one() {
    let url = database("import_single", &[TABLES, SINGLE]).await;
    let flags = ["--tenant", "studio", "--scenario", "4K60-h264=uhd", "--namespace-prefix", "t-"];
    let printed = import(&url, &flags).await;
    let all = objects(&printed);
    assert_eq!(names(&all), ["/studio", "t-studio/imported-4", "t-studio/imported-2"]);
    assert_eq!(
        (&all[0]["spec"], &all[1]["spec"]["scenario"]),
        (&json!({"plan": "enterprise"}), &json!("uhd"))
    );
    assert!(report(&printed).contains("node `encoder-1` (10.0.0.5:9000)"));
    // A database that is Crofter's own, has no jobs or is not there is refused with what to do.
    let none = database("import_none", &[]).await;
    let away = format!("{url}_away");
    for (url, words) in [
        (world().database_url().unwrap(), "it is a database of Crofter's own mirror"),
        (none.as_str(), "it has no table `jobs`"),
        (away.as_str(), "database \"import_single_away\" does not exist"),
        ("mysql://x", "it must begin with postgres://"),
    ] {
        let refused = import(url, &[]).await;
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(refused.status.code() == Some(1) && said.contains(words), "{said}");
        assert!(refused.stdout.is_empty());
    }
}
