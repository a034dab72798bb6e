//! The plan: remediations and footholds, checked as a whole.
//!
//! Never here: what a plan leads to. What leaves is complete, bounded, of unique ids and fingerprints, and
//! every foothold's link ends at an item of it.
//!
//! `parameters` by type: assisted takes an array of `{name, description}` (the description may be missing)
//! or none, containment a string or none, manual none. Nothing (absent, null, an empty array or string) is
//! one and the same, so that a fingerprint does not depend on how a bridge writes "none".

use std::sync::Arc;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};

use super::fields::{Id, Object};
use crate::machine::event::PlanItem;
use crate::model::ids::RemediationId;
use crate::model::remediation::{ActionName, OutcomeCode, Parameter, Parameters, RemediationType};
use crate::model::report::Foothold;
use crate::wire::words::OneOf;
use crate::wire::{Fault, Reason, limits};

/// `remediations`, as the vendor's API pages it. All items have to be there: a plan of which some are missing is
/// refused as `plan_incomplete`.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "Plan")]
pub struct PlanForm {
    total_count: Option<u64>,
    has_more: Option<bool>,
    /// Of different ids, and no two of the same type, action and parameters.
    #[schemars(length(max = limits::REMEDIATIONS))]
    items: Option<Vec<Object<ItemForm>>>,
}

/// One remediation. `parameters` by type: assisted takes an array, containment a string, manual nothing.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "Remediation", extend("allOf" = [
    { "if": { "properties": { "type": { "const": "assisted" } } },
      "then": { "properties": { "parameters": { "anyOf": [{ "type": ["array", "null"] }, { "const": "" }] } } } },
    { "if": { "properties": { "type": { "const": "containment" } } },
      "then": { "properties": { "parameters": { "anyOf": [{ "type": ["string", "null"] }, { "type": "array", "maxItems": 0 }] } } } },
    { "if": { "properties": { "type": { "const": "manual" } } },
      "then": { "properties": { "parameters": { "anyOf": [{ "type": "null" }, { "const": "" }, { "type": "array", "maxItems": 0 }] } } } },
]))]
pub struct ItemForm {
    id: Id,
    #[serde(rename = "type")]
    kind: OneOf<RemediationType>,
    #[schemars(regex(pattern = r"\S"))]
    action: String,
    #[serde(default)]
    parameters: ParametersForm,
    /// An item is issued as unapproved.
    #[schemars(extend("enum" = ["unapproved", null]))]
    status: Option<String>,
    /// How simulated hosts answer, one code a try; nothing for a real one.
    #[schemars(length(max = limits::SIMULATED_TRIES), inner(length(min = 1, max = limits::OUTCOME_CODE_BYTES)))]
    simulate: Option<Vec<String>>,
}

/// Before its shape is compared with the item's type.
#[derive(Default)]
enum ParametersForm {
    #[default]
    Nothing,
    Text(String),
    Named(Vec<Object<ParameterForm>>),
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "Parameter")]
struct ParameterForm {
    name: String,
    description: Option<String>,
}

/// Something an attacker can come back by. Those of a report have different ids.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "Foothold")]
pub struct FootholdForm {
    #[schemars(length(min = 1))]
    id: String,
    #[schemars(length(min = 1))]
    kind: String,
    description: Option<String>,
    /// Items of the same plan.
    remediation_ids: Option<Vec<Id>>,
}

/// Whether host actions have a host to run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    Agent,
    /// A report without `agent_id`.
    None,
    /// A revision does not say; the machine knows the report.
    Unstated,
}

/// Checks `remediations`, whose path is `at`.
pub fn items(form: PlanForm, at: &str, host: Host) -> Result<Vec<PlanItem>, Fault> {
    let forms = form.items.unwrap_or_default();
    if forms.len() > limits::REMEDIATIONS {
        return Err(Fault::over(&format!("{at}.items"), limits::REMEDIATIONS, "remediations"));
    }
    check_complete(form.total_count, form.has_more.unwrap_or(false), forms.len(), at)?;

    let mut ids = HashSet::new();
    let mut fingerprints = HashMap::new();
    let mut items = Vec::with_capacity(forms.len());
    for (index, Object(form)) in forms.into_iter().enumerate() {
        let at = format!("{at}.items[{index}]");
        let item = item(form, &at, host)?;
        if !ids.insert(item.id) {
            return Err(Fault::invalid(format!("{at}.id: {} is there twice", item.id)));
        }
        if let Some(other) = fingerprints.insert(fingerprint(&item), item.id) {
            return Err(Fault::invalid(format!("{at}: the same type, action and parameters as remediation {other}")));
        }
        items.push(item);
    }
    Ok(items)
}

fn check_complete(total: Option<u64>, has_more: bool, listed: usize, at: &str) -> Result<(), Fault> {
    let listed = listed as u64;
    let missing = match total {
        Some(total) if total < listed => {
            return Err(Fault::invalid(format!("{at}.total_count: {total}, but {listed} items are listed")));
        }
        Some(total) => total > listed,
        // more than what is listed, and nobody says how much
        None => has_more,
    };
    if missing {
        let total = total.map_or("more".to_owned(), |total| total.to_string());
        return Err(Fault::new(Reason::PlanIncomplete, format!("{at}: {listed} of {total} items are listed")));
    }
    Ok(())
}

fn item(form: ItemForm, at: &str, host: Host) -> Result<PlanItem, Fault> {
    let (id, kind) = (form.id.0, form.kind.0);
    if form.status.is_some_and(|status| status != "unapproved") {
        return Err(Fault::invalid(format!("{at}.status: remediation {id} is issued in another status than unapproved")));
    }
    let action = ActionName::new(form.action);
    if action.original().trim().is_empty() {
        return Err(Fault::invalid(format!("{at}.action: empty")));
    }
    let on_host = action.listed().filter(|action| kind.is_task() && !action.is_identity_action());
    if let (Some(action), Host::None) = (on_host, host) {
        return Err(Fault::invalid(format!("{at}.action: {} needs a host, and the report has no agent_id", action.as_str())));
    }
    Ok(PlanItem {
        id: RemediationId(id),
        kind,
        action,
        parameters: Arc::new(parameters(form.parameters, kind, &format!("{at}.parameters"))?),
        simulate: simulate(form.simulate.unwrap_or_default(), &format!("{at}.simulate"))?.into(),
    })
}

fn parameters(form: ParametersForm, kind: RemediationType, at: &str) -> Result<Parameters, Fault> {
    match (form, kind) {
        (ParametersForm::Nothing, _) => Ok(Parameters::None),
        (ParametersForm::Named(list), RemediationType::Assisted) => {
            if list.len() > limits::PARAMETERS {
                return Err(Fault::over(at, limits::PARAMETERS, "parameters"));
            }
            let parameter =
                |Object(form): Object<ParameterForm>| Parameter { name: form.name, description: form.description.unwrap_or_default() };
            Ok(Parameters::Named(list.into_iter().map(parameter).collect()))
        }
        (ParametersForm::Text(text), RemediationType::Containment) => Ok(Parameters::Text(text)),
        (ParametersForm::Text(_), RemediationType::Assisted) => {
            Err(Fault::invalid(format!("{at}: an assisted remediation takes an array of {{name, description}}")))
        }
        (ParametersForm::Named(_), RemediationType::Containment) => {
            Err(Fault::invalid(format!("{at}: a containment remediation takes a string")))
        }
        (ParametersForm::Text(_) | ParametersForm::Named(_), RemediationType::Manual) => {
            Err(Fault::invalid(format!("{at}: a manual remediation takes none")))
        }
    }
}

fn simulate(codes: Vec<String>, at: &str) -> Result<Vec<OutcomeCode>, Fault> {
    if codes.len() > limits::SIMULATED_TRIES {
        return Err(Fault::over(at, limits::SIMULATED_TRIES, "codes"));
    }
    for (index, code) in codes.iter().enumerate() {
        if code.is_empty() {
            return Err(Fault::invalid(format!("{at}[{index}]: empty")));
        }
        if code.len() > limits::OUTCOME_CODE_BYTES {
            return Err(Fault::over(&format!("{at}[{index}]"), limits::OUTCOME_CODE_BYTES, "bytes"));
        }
    }
    Ok(codes.into_iter().map(OutcomeCode::new).collect())
}

/// Row T1: what makes two items of one plan the same work.
fn fingerprint(item: &PlanItem) -> (RemediationType, String, Vec<(String, String)>) {
    let parameters = match item.parameters.as_ref() {
        Parameters::None => Vec::new(),
        Parameters::Text(text) => vec![(String::new(), text.clone())],
        Parameters::Named(list) => list.iter().map(|parameter| (parameter.name.clone(), parameter.description.clone())).collect(),
    };
    (item.kind, item.action.normalised(), parameters)
}

/// Checks `footholds`, whose path is `at`, against the items of the same plan.
pub fn footholds(forms: Vec<Object<FootholdForm>>, at: &str, items: &[PlanItem]) -> Result<Vec<Foothold>, Fault> {
    if forms.len() > limits::FOOTHOLDS {
        return Err(Fault::over(at, limits::FOOTHOLDS, "footholds"));
    }
    let known: HashSet<RemediationId> = items.iter().map(|item| item.id).collect();
    let mut ids = HashSet::new();
    let mut footholds = Vec::with_capacity(forms.len());
    for (index, Object(form)) in forms.into_iter().enumerate() {
        let at = format!("{at}[{index}]");
        if form.id.is_empty() || form.kind.is_empty() {
            return Err(Fault::invalid(format!("{at}: id or kind is empty")));
        }
        if !ids.insert(form.id.clone()) {
            return Err(Fault::invalid(format!("{at}.id: is there twice")));
        }
        let mut linked = Vec::new();
        for (link, Id(id)) in form.remediation_ids.unwrap_or_default().into_iter().enumerate() {
            let id = RemediationId(id);
            if !known.contains(&id) {
                return Err(Fault::invalid(format!("{at}.remediation_ids[{link}]: {id} is not in the plan")));
            }
            if !linked.contains(&id) {
                linked.push(id);
            }
        }
        footholds.push(Foothold {
            id: form.id,
            kind: form.kind,
            description: form.description.unwrap_or_default(),
            remediation_ids: linked,
        });
    }
    Ok(footholds)
}

impl JsonSchema for ParametersForm {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Parameters".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["array", "string", "null"],
            "maxItems": limits::PARAMETERS,
            "items": generator.subschema_for::<ParameterForm>(),
        })
    }
}

impl<'de> Deserialize<'de> for ParametersForm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Polymorphic;

        impl<'de> Visitor<'de> for Polymorphic {
            type Value = ParametersForm;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array, a string or null")
            }

            fn visit_unit<E>(self) -> Result<ParametersForm, E> {
                Ok(ParametersForm::Nothing)
            }

            fn visit_str<E>(self, text: &str) -> Result<ParametersForm, E> {
                Ok(if text.is_empty() { ParametersForm::Nothing } else { ParametersForm::Text(text.to_owned()) })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<ParametersForm, A::Error> {
                let mut list = Vec::new();
                while let Some(parameter) = seq.next_element()? {
                    list.push(parameter);
                }
                Ok(if list.is_empty() { ParametersForm::Nothing } else { ParametersForm::Named(list) })
            }
        }

        deserializer.deserialize_any(Polymorphic)
    }
}
