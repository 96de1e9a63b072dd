//! Kind rules at work: what each event counts, from its kind, its value and its age.

use crate::snapshot::{KindRule, KindRules, TimeQuality};

const DAY_MILLIS: f64 = 86_400_000.0;

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RuleError {
    #[error(
        "the condition of kind `{kind}` must read like `value >= 4` (>=, >, <=, < or =), received `{received}`"
    )]
    Condition { kind: String, received: String },
    #[error("half_life_days of kind `{kind}` must be a positive number of days, received {received}")]
    HalfLife { kind: String, received: f64 },
    #[error("weight of kind `{kind}` must be a finite number, received {received}")]
    Weight { kind: String, received: f32 },
}

/// `name >= number`, as in `--positive 'rating>=4'` and [`KindRule::only`].
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    pub field: String,
    pub operator: Operator,
    pub number: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    AtLeast,
    Above,
    AtMost,
    Below,
    Equal,
}

impl Condition {
    /// `None` where the text is not a name, an operator and a finite number.
    pub fn parse(text: &str) -> Option<Condition> {
        let at = text.find(['<', '>', '='])?;
        let (field, rest) = text.split_at(at);
        let (operator, number) = [
            (">=", Operator::AtLeast),
            ("<=", Operator::AtMost),
            ("==", Operator::Equal),
            (">", Operator::Above),
            ("<", Operator::Below),
            ("=", Operator::Equal),
        ]
        .into_iter()
        .find_map(|(sign, operator)| Some((operator, rest.strip_prefix(sign)?)))?;
        let number: f64 = number.trim().parse().ok()?;
        let field = field.trim();
        (number.is_finite() && !field.is_empty()).then(|| Condition {
            field: field.to_owned(),
            operator,
            number,
        })
    }

    pub fn holds(&self, value: f64) -> bool {
        match self.operator {
            Operator::AtLeast => value >= self.number,
            Operator::Above => value > self.number,
            Operator::AtMost => value <= self.number,
            Operator::Below => value < self.number,
            Operator::Equal => value == self.number,
        }
    }
}

/// Rules checked and laid out by kind index, ready to weigh millions of events.
#[derive(Debug, Clone)]
pub struct Weigher {
    rules: Vec<Checked>,
    newest: i64,
}

#[derive(Debug, Clone)]
struct Checked {
    weight: f32,
    by_value: bool,
    /// −ln 2 / half-life, per millisecond; 0 where nothing fades.
    fade: f64,
    only: Option<Condition>,
}

impl Weigher {
    /// `kinds[k]` names kind `k`; `newest` is the latest `at` of the data in milliseconds. Half-lives need real
    /// times: where `times` is not [`TimeQuality::Clock`] nothing fades.
    pub fn new(
        rules: &KindRules,
        kinds: &[String],
        newest: i64,
        times: TimeQuality,
    ) -> Result<Weigher, RuleError> {
        let plain = KindRule::default();
        let checked = kinds
            .iter()
            .map(|kind| check(kind, rules.get(kind).unwrap_or(&plain), times))
            .collect::<Result<_, _>>()?;
        // A rule for a kind that does not occur is still read, so that a typing error in it is found.
        for (kind, rule) in rules {
            check(kind, rule, times)?;
        }
        Ok(Weigher { rules: checked, newest })
    }

    /// What one event counts. A condition on a value does not hold for an event without one.
    pub fn weight(&self, kind: u8, value: Option<f32>, at: i64) -> f32 {
        let rule = &self.rules[kind as usize];
        if let Some(only) = &rule.only
            && !value.is_some_and(|v| only.holds(f64::from(v)))
        {
            return 0.0;
        }
        let mut weight = rule.weight;
        if rule.by_value {
            weight *= value.unwrap_or(1.0);
        }
        if rule.fade != 0.0 {
            weight *= (rule.fade * self.newest.saturating_sub(at).max(0) as f64).exp() as f32;
        }
        weight
    }
}

fn check(kind: &str, rule: &KindRule, times: TimeQuality) -> Result<Checked, RuleError> {
    if !rule.weight.is_finite() {
        return Err(RuleError::Weight { kind: kind.to_owned(), received: rule.weight });
    }
    let fade = match rule.half_life_days {
        Some(days) if !days.is_finite() || days <= 0.0 => {
            return Err(RuleError::HalfLife { kind: kind.to_owned(), received: days });
        }
        Some(days) if times == TimeQuality::Clock => -std::f64::consts::LN_2 / (days * DAY_MILLIS),
        _ => 0.0,
    };
    let only = match &rule.only {
        None => None,
        Some(text) => Some(
            Condition::parse(text)
                .filter(|c| c.field == "value")
                .ok_or_else(|| RuleError::Condition { kind: kind.to_owned(), received: text.clone() })?,
        ),
    };
    Ok(Checked { weight: rule.weight, by_value: rule.by_value, fade, only })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weigh(rule: KindRule, value: Option<f32>, at: i64) -> f32 {
        let rules = KindRules::from([("k".to_owned(), rule)]);
        Weigher::new(&rules, &["k".to_owned()], 10 * DAY_MILLIS as i64, TimeQuality::Clock)
            .unwrap()
            .weight(0, value, at)
    }

    #[test]
    fn weight_value_condition_and_age() {
        let rule =
            KindRule { weight: 2.0, by_value: true, only: Some("value >= 4".into()), half_life_days: None };
        assert_eq!(weigh(rule.clone(), Some(5.0), 0), 10.0);
        assert_eq!(weigh(rule.clone(), Some(3.0), 0), 0.0);
        assert_eq!(weigh(rule, None, 0), 0.0);
        let fading = KindRule { half_life_days: Some(5.0), ..KindRule::default() };
        assert!((weigh(fading, None, 0) - 0.25).abs() < 1e-6);
    }

    #[test]
    fn bad_rules_are_named() {
        for rule in [
            KindRule { only: Some("value ~ 4".into()), ..KindRule::default() },
            KindRule { only: Some("stars > 4".into()), ..KindRule::default() },
            KindRule { half_life_days: Some(0.0), ..KindRule::default() },
            KindRule { weight: f32::NAN, ..KindRule::default() },
        ] {
            let rules = KindRules::from([("absent".to_owned(), rule)]);
            assert!(Weigher::new(&rules, &[], 0, TimeQuality::None).is_err());
        }
    }

    #[test]
    fn conditions() {
        assert_eq!(
            Condition::parse("rating>=4"),
            Some(Condition { field: "rating".into(), operator: Operator::AtLeast, number: 4.0 })
        );
        assert!(Condition::parse("rating = 4").unwrap().holds(4.0));
        for bad in ["", "rating", ">=4", "rating>=", "rating>=x", "rating>=NaN"] {
            assert_eq!(Condition::parse(bad), None, "{bad}");
        }
    }
}
