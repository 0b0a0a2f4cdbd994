//! `crofter check --attacks`: what each kind of client must not get through with, tried on an installation.
//!
//! Every attack names the wall that refuses it, and counts as refused only by the status and words of that wall. Each has a
//! twin, the same verb on the same kind, which must be admitted. Requests to the API server are dry runs, made as the
//! attacker by impersonation; those to the REST API are made with keys of throwaway tenants.

mod call;
mod catalogue;
pub mod fixtures;
mod run;
mod site;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Duration};

use kube::Client;

pub use self::{
    call::Call,
    catalogue::{Attack, Wall, all},
    run::{Outcome, Targets},
    site::{ELSEWHERE, Site, TENANT, Who},
};
use super::{Finding, Options};

/// Makes all attacks, and says what got through.
pub(super) async fn check(client: &Client, options: &Options) -> Vec<Finding> {
    let site = Site {
        home: options.namespace.clone(),
        account: options.service_account.clone(),
        prefix: options.namespace_prefix.clone(),
    };
    let rest = match run::rest_client(options.api_url.as_deref(), options.api_authority.as_deref()) {
        Ok(rest) => rest,
        Err(error) => return vec![Finding::failed(error, "give the URL of the REST API as --api-url")],
    };
    let limit = Duration::from_secs(options.step_seconds.into());
    let node = match fixtures::begin(client).await {
        Ok(node) => node,
        // Nothing was made, and what is there is another check's.
        Err(finding) => return vec![finding],
    };
    let mut findings = match fixtures::make(client, &site, &node, &options.plan, limit).await {
        Ok(fixtures) => {
            let targets =
                Targets { api_server: client, rest: rest.as_ref(), site: &site, fixtures: &fixtures };
            attacked(&targets, limit).await
        }
        Err(finding) => vec![finding],
    };
    findings.push(fixtures::remove(client, &site, limit).await);
    findings
}

/// One finding for each identity with the number of its attacks that were refused as they should be, and one for each that
/// was not.
async fn attacked(targets: &Targets<'_>, limit: Duration) -> Vec<Finding> {
    let attacks: Vec<Attack> = all(targets.site).into_iter().filter(|attack| targets.reach(attack)).collect();
    targets.settle(&attacks, limit).await;
    let outcomes = targets.run(&attacks).await;
    let mut refused: BTreeMap<Who, usize> = BTreeMap::new();
    let mut amiss = Vec::new();
    for (attack, outcome) in attacks.iter().zip(outcomes) {
        if outcome == Outcome::Refused {
            *refused.entry(attack.who).or_default() += 1;
            continue;
        }
        let what = format!("{}: {}: {outcome}", attack.who, attack.what);
        let mend = format!(
            "see docs/security.md; where the chart is installed whole, this refuses it: {}",
            attack.wall
        );
        amiss.push(Finding::failed(what, mend));
    }
    let fine = |(who, count)| Finding::Ok(format!("{who}: {count} attacks were refused"));
    let mut findings: Vec<_> = refused.into_iter().map(fine).chain(amiss).collect();
    if targets.rest.is_none() {
        findings.push(Finding::Ok("the REST API was not attacked: no --api-url was given".to_owned()));
    }
    findings
}
