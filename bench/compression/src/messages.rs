//! Typical JSON of services: objects of few kinds with repeated keys and varying values.

/// A message of exactly `bytes` bytes: an array of records, the last one cut off.
pub fn json(bytes: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut text = String::from("[");
    while text.len() < bytes {
        text += &record(&mut random);
        text.push(',');
    }
    text.truncate(bytes);
    text.into_bytes()
}

fn record(random: &mut Random) -> String {
    const SYMBOLS: [&str; 6] = ["BTC-USD", "ETH-USD", "SOL-EUR", "ADA-USD", "XRP-EUR", "DOGE-USD"];
    const WORDS: [&str; 16] = [
        "order", "ready", "window", "could", "please", "market", "north", "seven", "message", "after",
        "again", "through", "people", "thanks", "maybe", "evening",
    ];
    let id = random.below(90_000_000) + 10_000_000;
    let time = format!(
        "2026-11-20T{:02}:{:02}:{:02}.{:03}Z",
        random.below(24),
        random.below(60),
        random.below(60),
        random.below(1000)
    );
    if random.below(4) > 0 {
        let symbol = SYMBOLS[random.below(6) as usize];
        let side = ["buy", "sell"][random.below(2) as usize];
        format!(
            "{{\"type\":\"trade\",\"id\":{id},\"symbol\":\"{symbol}\",\"price\":\"{}.{:02}\",\"size\":\"0.{:06}\",\
             \"side\":\"{side}\",\"time\":\"{time}\"}}",
            random.below(90_000),
            random.below(100),
            random.below(1_000_000)
        )
    } else {
        let words: Vec<&str> = (0..random.below(12) + 4).map(|_| WORDS[random.below(16) as usize]).collect();
        format!(
            "{{\"type\":\"chat\",\"id\":{id},\"user\":{{\"id\":{},\"name\":\"{}{}\"}},\"text\":\"{}\",\
             \"time\":\"{time}\"}}",
            random.below(100_000),
            WORDS[random.below(16) as usize],
            random.below(100),
            words.join(" ")
        )
    }
}

/// xorshift64*.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % end
    }
}
