//! The command `crofter`.

fn main() -> anyhow::Result<()> {
    let dir = std::path::Path::new("crds");
    std::fs::create_dir_all(dir)?;
    for (file, crd) in crofter::api_types::crd::all() {
        std::fs::write(dir.join(file), crofter::api_types::crd::to_yaml(&crd)?)?;
    }
    Ok(())
}
