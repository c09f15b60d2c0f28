//! How often a schema may look at one value: a bound that is known before the first order comes.
//!
//! A schema that refers to itself from two alternatives looks at a value twice, at the values within it four times, and so on: at the
//! deepest order two to the power of 32 times.

use std::collections::HashMap;

use serde_json::{Map, Value};
use waybill_domain::json::MAX_DEPTH;

use crate::reference::resolve;

/// Most looks at one value and at the values on one way down from it. A schema of a hundred alternatives within a few others is far
/// below.
const MAX_LOOKS: u64 = 1_000;

/// The looks of a schema. `Err`: it may take too long for some order.
pub(crate) fn looks(documents: &[(String, Value)]) -> Result<u64, String> {
    let Some((name, root)) = documents.first() else { return Ok(0) };
    let mut cost = Cost { documents, known: HashMap::new() };
    match cost.looks(name, root, MAX_DEPTH)? {
        looks if looks > MAX_LOOKS => Err(format!(
            "an order could make it look more than {MAX_LOOKS} times at one value, since parts of it refer to themselves from several \
             alternatives; let one reference lead back only"
        )),
        looks => Ok(looks),
    }
}

struct Cost<'s> {
    documents: &'s [(String, Value)],
    /// The looks of a part, by its address and the depth that is left; `None` while they are being counted.
    known: HashMap<(*const Value, usize), Option<u64>>,
}

impl<'s> Cost<'s> {
    fn looks(&mut self, file: &'s str, schema: &'s Value, depth: usize) -> Result<u64, String> {
        let Value::Object(keywords) = schema else { return Ok(1) };
        let key = (std::ptr::from_ref(schema), depth);
        match self.known.get(&key) {
            Some(Some(looks)) => return Ok(*looks),
            Some(None) => return Err("a part of it refers to itself without going deeper into an order".into()),
            None => drop(self.known.insert(key, None)),
        }
        let mut looks = 1_u64;
        for keyword in ["allOf", "anyOf", "oneOf"] {
            looks = looks.saturating_add(self.sum(file, elements(keywords, keyword), depth)?);
        }
        for keyword in ["not", "if", "then", "else"] {
            looks = looks.saturating_add(self.sum(file, keywords.get(keyword), depth)?);
        }
        looks = looks.saturating_add(self.sum(file, members(keywords, "dependentSchemas"), depth)?);
        for keyword in ["$ref", "$dynamicRef"] {
            if let Some(Value::String(reference)) = keywords.get(keyword) {
                let (file, target) = self.target(file, reference)?;
                looks = looks.saturating_add(self.looks(file, target, depth)?);
            }
        }
        if let Some(below) = depth.checked_sub(1) {
            let known = self.most(file, members(keywords, "properties"), below)?;
            let other = self.sum(file, keywords.get("additionalProperties"), below)?;
            let mut object = known.max(other).saturating_add(self.sum(file, members(keywords, "patternProperties"), below)?);
            for keyword in ["unevaluatedProperties", "propertyNames"] {
                object = object.saturating_add(self.sum(file, keywords.get(keyword), below)?);
            }
            let first = self.most(file, elements(keywords, "prefixItems"), below)?;
            let mut array = first.max(self.sum(file, keywords.get("items"), below)?);
            for keyword in ["contains", "unevaluatedItems"] {
                array = array.saturating_add(self.sum(file, keywords.get(keyword), below)?);
            }
            looks = looks.saturating_add(object.max(array));
        }
        self.known.insert(key, Some(looks));
        Ok(looks)
    }

    fn sum(&mut self, file: &'s str, schemas: impl IntoIterator<Item = &'s Value>, depth: usize) -> Result<u64, String> {
        schemas.into_iter().try_fold(0_u64, |sum, schema| Ok(sum.saturating_add(self.looks(file, schema, depth)?)))
    }

    fn most(&mut self, file: &'s str, schemas: impl IntoIterator<Item = &'s Value>, depth: usize) -> Result<u64, String> {
        schemas.into_iter().try_fold(0_u64, |most, schema| Ok(most.max(self.looks(file, schema, depth)?)))
    }

    /// The part that a reference leads to.
    fn target(&self, file: &'s str, reference: &str) -> Result<(&'s str, &'s Value), String> {
        let found = resolve(self.documents, file, reference).and_then(|(name, pointer)| {
            let (_, document) = self.documents.iter().find(|(other, _)| other == name)?;
            Some((name, document.pointer(&pointer)?))
        });
        found.ok_or_else(|| {
            format!("the reference {reference:?} is too indirect: write #/… for a part of this file, FILE#/… for one of another")
        })
    }
}

fn elements<'s>(keywords: &'s Map<String, Value>, keyword: &str) -> impl Iterator<Item = &'s Value> {
    keywords.get(keyword).and_then(Value::as_array).into_iter().flatten()
}

fn members<'s>(keywords: &'s Map<String, Value>, keyword: &str) -> impl Iterator<Item = &'s Value> {
    keywords.get(keyword).and_then(Value::as_object).into_iter().flat_map(Map::values)
}
