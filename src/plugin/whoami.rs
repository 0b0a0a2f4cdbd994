//! `whoami`: where requests go, and as whom.

use super::{
    Context, Session,
    output::{Format, names, structured},
    table::clean,
};
use crate::client::{Result, model::Caller};

pub async fn run(context: &Context) -> Result<()> {
    let Session { transport, .. } = context.session().await?;
    let caller = transport.whoami().await?;
    let text = match structured(context.format(), &caller)? {
        Some(text) => text,
        None if context.format() == Format::Name => names(&clean(&caller.kind), [caller.name.as_str()]),
        None => rendered(&transport.address(), &caller),
    };
    context.terminal.print(&text)
}

fn rendered(address: &str, caller: &Caller) -> String {
    let mut text = format!("server: {}\n{}: {}\n", clean(address), clean(&caller.kind), clean(&caller.name));
    if let Some(tenant) = &caller.tenant {
        text += &format!("tenant: {}\n", clean(tenant));
    }
    let list = |values: Vec<&str>| clean(&values.join(", "));
    if !caller.scopes.is_empty() {
        text += &format!("scopes: {}\n", list(caller.scopes.iter().map(String::as_str).collect()));
    }
    for (name, value) in [("groups", caller.rest.get("groups")), ("namespace", caller.rest.get("namespace"))]
    {
        match value {
            Some(serde_json::Value::Array(all)) => {
                text +=
                    &format!("{name}: {}\n", list(all.iter().filter_map(|value| value.as_str()).collect()));
            }
            Some(serde_json::Value::String(one)) => text += &format!("{name}: {}\n", clean(one)),
            _ => (),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_and_a_user_are_each_their_own() {
        let of = |caller| rendered("http://c", &serde_json::from_value(caller).unwrap());
        let key = json!({"kind": "key", "tenant_id": "u", "tenant": "acme", "id": "i", "name": "ci", "key_id": "abc", "scopes": ["jobs:read"]});
        assert_eq!(of(key), "server: http://c\nkey: ci\ntenant: acme\nscopes: jobs:read\n");
        let user =
            json!({"kind": "user", "name": "ann\u{7}", "groups": ["a", "b"], "namespace": "tenant-acme"});
        assert_eq!(of(user), "server: http://c\nuser: ann\ngroups: a, b\nnamespace: tenant-acme\n");
    }
}
