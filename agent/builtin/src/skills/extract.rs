use rand::Rng;
use rand::rngs::StdRng;

use super::{fill, pick};

const NAMES: [&str; 24] = [
    "Ana", "Ben", "Carla", "David", "Elif", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Kira", "Lena",
    "Marco", "Nora", "Omar", "Petra", "Quinn", "Rosa", "Samir", "Tara", "Uwe", "Vera", "Wanda", "Yusuf",
];
const CITIES: [&str; 20] = [
    "Oslo", "Lima", "Paris", "Quito", "Cairo", "Delhi", "Turin", "Porto", "Kyoto", "Hanoi", "Bergen",
    "Dublin", "Madrid", "Sofia", "Tunis", "Vienna", "Zagreb", "Boston", "Austin", "Perth",
];
const PEOPLE: [&str; 3] = [
    "extract name and city: {} lives in {}",
    "name and city as json: {} moved to {}",
    "json with name and city: {} works in {}",
];
const AGES: [&str; 3] = [
    "extract name and age: {} is {} years old",
    "name and age as json: {} turned {}",
    "json with name and age: {} is {}",
];

pub(super) fn example(rng: &mut StdRng) -> (String, String) {
    let name = *pick(rng, &NAMES);
    if rng.random_bool(0.5) {
        let city = *pick(rng, &CITIES);
        (fill(rng, &PEOPLE, &[name, city]), format!(r#"{{"name":"{name}","city":"{city}"}}"#))
    } else {
        let age = rng.random_range(18..90u32);
        (fill(rng, &AGES, &[name, &age.to_string()]), format!(r#"{{"name":"{name}","age":{age}}}"#))
    }
}
