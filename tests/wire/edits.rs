//! An edit of a good event, as `cases.txt` writes it: `pointer = JSON` or `pointer -`.

use serde_json::Value;

/// `event` with one thing changed. `~` is `/data/incident_report`.
pub fn edit(mut event: Value, edit: &str) -> Value {
    let (pointer, change) = edit.trim().split_once(' ').expect("pointer, then a change");
    let pointer = pointer.replacen('~', "/data/incident_report", 1);
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    let parent = event.pointer_mut(parent).unwrap_or_else(|| panic!("{pointer} is nowhere"));
    match (change.split_once(' '), parent) {
        (None, Value::Object(members)) if change == "-" => {
            members.remove(key).unwrap_or_else(|| panic!("{pointer} is not there to be removed"));
        }
        (Some(("=", json)), Value::Object(members)) => {
            members.insert(key.into(), serde_json::from_str(json).expect(json));
        }
        (Some(("=", json)), Value::Array(items)) => {
            items[key.parse::<usize>().expect("an index")] = serde_json::from_str(json).expect(json);
        }
        _ => panic!("not an edit: {edit}"),
    }
    event
}
