//! kubectl crofter in the programs of others: installed by the real krew, on the keys of k9s and in its columns.
//!
//! Nothing here needs a cluster. The files of k9s are held to its own JSON schemas, out of its Go module, by the validator of
//! Helm, and to what this version has: its commands and the fields of its resources.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crofter::{api_types::crd, yaml};
use crofter_test_cluster::tools::Tools;
use serde_json::Value;

use crate::shell::PROGRAM;

/// The version whose schemas the files of examples/k9s have, and the sum of its module.
const K9S: (&str, &str) =
    ("github.com/derailed/k9s@v0.50.16", "h1:djzWog8EYth+S6oLE1YjsC4BqMfo2on+mAv1FU/YoZA=");

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[track_caller]
fn succeeded(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn tool(name: &str) -> PathBuf {
    Tools::control_plane().unwrap().path(name).unwrap()
}

/// `krew install` of a manifest and an archive, without a network, into a directory of its own.
fn krew_install(root: &Path, manifest: &Path, archive: &Path) -> Output {
    let tools =
        Command::new("scripts/go-tools").args(["cli-go", "tests/cli/go"]).current_dir(project()).output();
    let krew = Path::new(succeeded(&tools.unwrap()).trim()).join("krew");
    let mut command = Command::new(krew);
    command.arg("install").arg("--manifest").arg(manifest).arg("--archive").arg(archive);
    command.env("KREW_ROOT", root).env("KREW_NO_UPGRADE_CHECK", "1").output().unwrap()
}

#[test]
fn krew_installs_what_a_release_has_packed_and_nothing_else() {
    // Given the archive and the manifest that a release makes of the program.
    let dir = tempfile::tempdir().unwrap();
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => panic!("no release is for {other}"),
    };
    let program = format!("{architecture}={PROGRAM}");
    let mut release = Command::new("scripts/release");
    release.args(["plugin", "https://releases.example.com/v1", &program]).current_dir(project());
    let manifest = succeeded(&release.env("RELEASE_FILES", dir.path()).output().unwrap());
    let manifest = Path::new(manifest.trim());
    let version = env!("CARGO_PKG_VERSION");
    let archive = dir.path().join(format!("kubectl-crofter_{version}_linux_{architecture}.tar.gz"));

    // krew accepts both, and kubectl then runs the program.
    let root = dir.path().join("krew");
    succeeded(&krew_install(&root, manifest, &archive));
    let mut kubectl = Command::new(tool("kubectl"));
    kubectl.args(["crofter", "version", "--client"]).env("PATH", root.join("bin"));
    let printed = succeeded(&kubectl.output().unwrap());
    assert!(printed.contains(version), "{printed}");

    // An archive that is not the release's is refused by its sum.
    fs::write(&archive, "something else").unwrap();
    let refused = krew_install(&dir.path().join("other"), manifest, &archive);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && error.contains("checksum"), "{error}");
}

fn example(file: &str) -> String {
    fs::read_to_string(project().join("examples/k9s").join(file)).unwrap()
}

/// Whether a file is valid by a JSON schema of k9s: as the values of a chart that has this schema.
fn is_valid(text: &str, schema: &str) -> bool {
    let mut go = Command::new("go");
    // No go.mod is above this directory.
    go.args(["mod", "download", "-json", K9S.0]).current_dir(std::env::temp_dir());
    let module: Value = serde_json::from_str(&succeeded(&go.output().unwrap())).unwrap();
    assert_eq!(module["Sum"], K9S.1);
    let schemas = Path::new(module["Dir"].as_str().unwrap()).join("internal/config/json/schemas");
    let chart = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| fs::write(chart.path().join(file), text).unwrap();
    write("Chart.yaml", "apiVersion: v2\nname: k9s\nversion: 1.0.0\n");
    write("values.schema.json", &fs::read_to_string(schemas.join(schema)).unwrap());
    write("values.yaml", text);
    let output = Command::new(tool("helm")).args(["template", "k9s"]).arg(chart.path()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() || error.contains("schema"), "{error}");
    output.status.success()
}

#[test]
fn the_files_are_valid_by_the_schemas_of_k9s() {
    for (file, schema, field) in
        [("plugins.yaml", "plugins.json", "scopes:"), ("views.yaml", "views.json", "columns:")]
    {
        assert!(is_valid(&example(file), schema), "{file}");
        assert!(!is_valid(&example(file).replace(field, "others:"), schema), "{file} without {field}");
    }
}

fn resources() -> Vec<Value> {
    crd::all().into_iter().map(|(_, crd)| serde_json::to_value(crd).unwrap()).collect()
}

#[test]
fn each_key_runs_a_command_of_this_version() {
    let plugins: Value = yaml::read(&example("plugins.yaml")).unwrap();
    let names: BTreeSet<String> =
        resources().iter().map(|crd| crd["metadata"]["name"].as_str().unwrap().to_owned()).collect();
    let mut keys = BTreeSet::new();
    for (name, plugin) in plugins["plugins"].as_object().unwrap() {
        // Each key is one of a resource of Crofter, and no other key of it.
        for scope in plugin["scopes"].as_array().unwrap() {
            assert!(names.contains(scope.as_str().unwrap()), "{name}: {scope}");
            assert!(keys.insert((scope.to_string(), plugin["shortCut"].to_string())), "{name}");
        }
        // With `--help` at its end a command says whether it knows what is before it.
        let arguments: Vec<&str> =
            plugin["args"].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
        let begin = arguments.iter().position(|one| *one == "crofter").unwrap() + 1;
        let verb = arguments[begin];
        let output = Command::new(PROGRAM).args(&arguments[begin..]).arg("--help").output().unwrap();
        assert!(succeeded(&output).contains(&format!(" {verb} ")), "{name}");
        // What changes something asks first, and is off where k9s is read-only.
        let changes = ["cancel", "retry"].contains(&verb);
        assert!(!changes || plugin["dangerous"] == true && plugin["confirm"] == true, "{name}");
    }
    assert_eq!(keys.len(), 6);
}

#[test]
fn each_column_is_of_its_resource() {
    let views: Value = yaml::read(&example("views.yaml")).unwrap();
    let views = views["views"].as_object().unwrap();
    for crd in resources() {
        let (spec, version) = (&crd["spec"], &crd["spec"]["versions"][0]);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let name =
            format!("{}/{}/{}", text(&spec["group"]), text(&version["name"]), text(&spec["names"]["plural"]));
        let printed = version["additionalPrinterColumns"].as_array().unwrap();
        let mut known: Vec<String> = printed.iter().map(|one| text(&one["name"]).to_uppercase()).collect();
        known.extend(["NAME".to_owned()]);
        known.extend((spec["scope"] == "Namespaced").then(|| "NAMESPACE".to_owned()));
        for column in views[&name]["columns"].as_array().unwrap().iter().map(text) {
            // `NAME:path|attributes`
            let column = column.split('|').next().unwrap();
            let Some((_, path)) = column.split_once(":.") else {
                assert!(known.iter().any(|one| one == column), "{name}: {column} is none of {known:?}");
                continue;
            };
            let pointer = path.split('.').fold(String::new(), |path, field| path + "/properties/" + field);
            let schema = &version["schema"]["openAPIV3Schema"];
            assert!(schema.pointer(&pointer).is_some(), "{name}: {column}");
        }
    }
}
