//! Prices an order: lines, tax, total; exact decimals throughout.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use rust_decimal::{Decimal, RoundingStrategy};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::config::time_budget;
use crate::domain::json::Json;
use crate::domain::lifecycle::Verdict;
use crate::domain::order::Order;
use crate::domain::record::Failure;
use crate::fulfillment::work::{Done, Failed, Job, Work};
use crate::fulfillment::{Outcome, Step};

/// The stages, in order, with the progress at the beginning of each.
pub const STAGES: [Step; time_budget::STAGES] = [
    Step { progress: 0, stage: Cow::Borrowed("validating") },
    Step { progress: 25, stage: Cow::Borrowed("pricing lines") },
    Step { progress: 60, stage: Cow::Borrowed("adding tax") },
    Step { progress: 85, stage: Cow::Borrowed("totalling") },
];

/// An order beyond this total needs a person; in units of its currency.
pub const MAX_TOTAL: i64 = 1_000_000_000_000;

/// The rules of pricing.
#[derive(Debug, Clone)]
pub struct Pricing {
    /// Share of the subtotal, e.g. `0.20`.
    pub tax_rate: Decimal,
}

/// The built-in work, which is pure: prices the order in named stages.
#[derive(Debug)]
pub struct PricingWork {
    /// The rules.
    pub pricing: Pricing,
    /// The pause before each stage, for demonstrations; with zero the work ends at once.
    pub pause: Duration,
}

impl PricingWork {
    fn price(&self, order: &str) -> Result<Done, Failed> {
        let priced = read(order).and_then(|order| self.pricing.price(&order));
        priced.map(Done).map_err(|failure| Failed(Outcome::Ended(Verdict::Refused(failure))))
    }
}

impl Work for PricingWork {
    async fn run(&self, job: Job) -> Result<Done, Failed> {
        for step in STAGES {
            job.progress(step.progress, step.stage);
            tokio::time::sleep(self.pause).await;
        }
        self.price(job.text())
    }

    fn at_once(&self, order: &str) -> Option<Result<Done, Failed>> {
        self.pause.is_zero().then(|| self.price(order))
    }

    fn estimate(&self) -> Duration {
        self.pause.saturating_mul(u32::try_from(STAGES.len()).unwrap_or(u32::MAX)) + Duration::from_secs(1)
    }

    fn can_break_off(&self) -> bool {
        true
    }
}

fn read(order: &str) -> Result<Order, Failure> {
    // Recorded orders were valid when they were accepted; a later version may be stricter.
    let invalid = || Failure::new("invalid_order", "the recorded order is not valid any more");
    let json = Json::parse(order).map_err(|_| invalid())?;
    Order::read(&json).map_err(|_| invalid())
}

/// The priced order; amounts are decimal strings in the currency's own number of places.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Priced<'a> {
    currency: &'a str,
    lines: Vec<Line<'a>>,
    subtotal: String,
    tax_rate: String,
    tax: String,
    total: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    sku: &'a str,
    quantity: u64,
    unit_price: String,
    amount: String,
}

impl Pricing {
    /// The priced order as JSON. Each line and the tax are rounded half away from zero, as invoices are.
    pub fn price(&self, order: &Order) -> Result<Arc<RawValue>, Failure> {
        let too_large = || Failure::new("total_too_large", format!("the total exceeds {MAX_TOTAL} {}; split the order", order.currency));
        let places = minor_units(&order.currency);
        let round = |amount: Decimal| amount.round_dp_with_strategy(places, RoundingStrategy::MidpointAwayFromZero);
        let text = |amount: Decimal| format!("{amount:.*}", places as usize);

        let mut subtotal = Decimal::ZERO;
        let mut lines = Vec::with_capacity(order.items.len());
        for item in &order.items {
            let amount = item.unit_price.checked_mul(Decimal::from(item.quantity)).map(round).ok_or_else(too_large)?;
            subtotal = subtotal.checked_add(amount).ok_or_else(too_large)?;
            lines.push(Line { sku: &item.sku, quantity: item.quantity, unit_price: item.unit_price.to_string(), amount: text(amount) });
        }
        let tax = subtotal.checked_mul(self.tax_rate).map(round).ok_or_else(too_large)?;
        let total = subtotal.checked_add(tax).filter(|total| *total <= Decimal::from(MAX_TOTAL)).ok_or_else(too_large)?;
        let priced = Priced {
            currency: &order.currency,
            lines,
            subtotal: text(subtotal),
            tax_rate: self.tax_rate.normalize().to_string(),
            tax: text(tax),
            total: text(total),
        };
        let result = serde_json::value::to_raw_value(&priced).expect("strings and numbers always serialise");
        Ok(result.into())
    }
}

/// Decimal places of a currency (ISO 4217, the active codes that differ from two).
fn minor_units(currency: &str) -> u32 {
    match currency {
        "BIF" | "CLP" | "DJF" | "GNF" | "ISK" | "JPY" | "KMF" | "KRW" | "PYG" | "RWF" | "UGX" | "UYI" | "VND" | "VUV" | "XAF" | "XOF"
        | "XPF" => 0,
        "BHD" | "IQD" | "JOD" | "KWD" | "LYD" | "OMR" | "TND" => 3,
        "CLF" | "UYW" => 4,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price(text: &str) -> Result<Arc<RawValue>, Failure> {
        let pricing = Pricing { tax_rate: "0.20".parse().unwrap() };
        pricing.price(&Order::read(&Json::parse(text).unwrap()).unwrap())
    }

    #[test]
    fn lines_tax_and_total_are_exact() {
        let result = price(
            r#"{"orderId":"o","customerId":"c","currency":"EUR","items":[
                {"sku":"a","quantity":3,"unitPrice":0.1},{"sku":"b","quantity":1,"unitPrice":"0.005"},{"sku":"c","quantity":1e3,"unitPrice":19.90}]}"#,
        );

        assert_eq!(
            result.unwrap().get(),
            r#"{"currency":"EUR","lines":[{"sku":"a","quantity":3,"unitPrice":"0.1","amount":"0.30"},{"sku":"b","quantity":1,"unitPrice":"0.005","amount":"0.01"},{"sku":"c","quantity":1000,"unitPrice":"19.9","amount":"19900.00"}],"subtotal":"19900.31","taxRate":"0.2","tax":"3980.06","total":"23880.37"}"#
        );
    }

    #[test]
    fn a_currency_without_cents_has_none() {
        let result =
            price(r#"{"orderId":"o","customerId":"c","currency":"JPY","items":[{"sku":"a","quantity":3,"unitPrice":"0.5"}]}"#).unwrap();

        assert!(result.get().contains(r#""amount":"2""#), "{}", result.get());
    }

    #[test]
    fn a_total_beyond_reason_fails_for_good() {
        let failure =
            price(r#"{"orderId":"o","customerId":"c","currency":"EUR","items":[{"sku":"a","quantity":1000000,"unitPrice":1e9}]}"#)
                .unwrap_err();

        assert_eq!(failure.code, "total_too_large");
    }
}
