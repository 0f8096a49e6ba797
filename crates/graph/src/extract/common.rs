//! English words that are no names though they begin with a capital: what begins
//! sentences, interjections, and what is written in capitals for loudness.

/// Words that begin sentences and are seldom names, sorted.
const COMMON: &[&str] = &[
    "a", "able", "about", "above", "absolutely", "according", "across", "actually", "add", "after",
    "afternoon", "again", "ago", "agreed", "ah", "all", "almost", "alright", "also", "although",
    "always", "am", "amazing", "an", "and", "another", "any", "anyone", "anything", "anyway",
    "anyways", "apparently", "are", "around", "art", "as", "ask", "at", "aunt", "awesome", "aww",
    "baby", "back", "bad", "baking", "be", "beautiful", "because", "been", "before", "being",
    "besides", "best", "better", "between", "big", "both", "boy", "breakfast", "bring", "brother",
    "btw", "but", "by", "bye", "call", "can", "can't", "cannot", "care", "check", "cheers", "chill",
    "choose", "christmas", "come", "coming", "congrats", "congratulations", "consider", "cool",
    "could", "couldn't", "cousin", "cute", "dad", "daddy", "damn", "dear", "definitely", "did",
    "didn't", "dinner", "do", "does", "doesn't", "doing", "don't", "done", "down", "during", "each",
    "early", "either", "else", "enjoy", "enough", "especially", "even", "evening", "eventually",
    "ever", "every", "everybody", "everyone", "everything", "exactly", "excellent", "excited",
    "exciting", "exercise", "experience", "fair", "family", "fantastic", "far", "feel", "feeling",
    "few", "finally", "find", "fine", "first", "follow", "food", "for", "friend", "friends", "from",
    "full", "fun", "funny", "further", "get", "getting", "girl", "give", "given", "glad", "go",
    "god", "going", "gonna", "good", "goodbye", "gosh", "got", "gotcha", "grandma", "grandpa",
    "great", "guess", "guys", "ha", "had", "haha", "half", "happy", "hard", "has", "hasn't", "have",
    "haven't", "having", "he", "hear", "heard", "hello", "help", "her", "here", "hers", "hey", "hi",
    "him", "his", "hmm", "home", "honestly", "hope", "hopefully", "hoping", "how", "however",
    "huge", "hurray", "husband", "i", "i'd", "i'll", "i'm", "i've", "if", "important", "impressive",
    "in", "incredible", "indeed", "inside", "instead", "interesting", "into", "is", "isn't", "it",
    "it's", "its", "job", "join", "just", "keep", "kid", "kids", "kind", "know", "last", "lately",
    "later", "learning", "least", "less", "let", "let's", "life", "like", "little", "live",
    "living", "lol", "long", "look", "looking", "looks", "lots", "love", "lovely", "luckily",
    "lucky", "lunch", "made", "make", "making", "mama", "man", "many", "may", "maybe", "me",
    "meanwhile", "memories", "might", "mine", "mom", "moment", "mommy", "more", "moreover",
    "morning", "most", "mostly", "mother", "move", "mr", "mrs", "ms", "much", "mum", "music",
    "must", "my", "myself", "nah", "nature", "near", "need", "neither", "never", "nevertheless",
    "new", "next", "nice", "night", "no", "nobody", "none", "nope", "nor", "not", "note", "nothing",
    "now", "obviously", "of", "off", "oh", "ok", "okay", "old", "omg", "on", "once", "one", "ones",
    "only", "ooh", "open", "or", "other", "others", "otherwise", "ouch", "our", "ours", "out",
    "over", "overall", "own", "painting", "part", "people", "perfect", "perhaps", "personally",
    "pets", "photo", "pick", "pics", "place", "play", "please", "plus", "probably", "proud", "put",
    "quick", "quite", "read", "reading", "ready", "really", "regarding", "remember", "right", "run",
    "running", "sad", "sadly", "same", "saw", "say", "saying", "school", "see", "seeing", "seems",
    "seriously", "set", "several", "shall", "she", "should", "show", "sick", "simply", "since",
    "sister", "so", "some", "somebody", "someone", "something", "sometimes", "soon", "sorry",
    "sounds", "spending", "start", "started", "starting", "stay", "still", "stop", "such", "super",
    "sure", "sweet", "take", "taking", "talk", "talking", "tell", "than", "thank", "thankfully",
    "thanks", "thanksgiving", "that", "that's", "the", "their", "them", "then", "there", "there's",
    "therefore", "these", "they", "thing", "things", "think", "thinking", "this", "those", "though",
    "thought", "three", "through", "thus", "till", "time", "times", "to", "today", "together",
    "tomorrow", "tonight", "too", "totally", "toward", "travel", "traveling", "trust", "try",
    "trying", "two", "ugh", "uncle", "under", "unfortunately", "unless", "until", "up", "upon",
    "us", "use", "used", "using", "usually", "very", "wait", "walking", "want", "was", "wasn't",
    "watch", "watching", "way", "we", "we'd", "we'll", "we're", "we've", "week", "weekend",
    "welcome", "well", "went", "were", "what", "what's", "whatever", "when", "whenever", "where",
    "wherever", "whether", "which", "while", "who", "who's", "whoever", "whole", "whom", "whose",
    "why", "wife", "will", "wish", "with", "within", "without", "woah", "wonderful", "woohoo",
    "work", "working", "would", "wow", "writing", "wrong", "yay", "yeah", "year", "years", "yep",
    "yes", "yesterday", "yet", "yikes", "yo", "you", "you'll", "you're", "you've", "young", "your",
    "yours", "yourself", "yup",
];

/// Written in capitals without being a name, sorted.
const LOUD: &[&str] = &[
    "aka", "am", "asap", "atm", "bbq", "brb", "btw", "diy", "dj", "dm", "eod", "eta", "faq", "fyi",
    "gif", "haha", "id", "idk", "imho", "imo", "irl", "jk", "lmao", "lol", "nsfw", "ok", "omg",
    "pc", "pm", "ps", "rip", "rn", "rsvp", "tba", "tbd", "tbh", "tldr", "tmi", "tv", "usd", "vip",
    "wfh", "wtf", "xd",
];

/// Nationalities and languages: capitals that name nobody, sorted.
const ADJECTIVES: &[&str] = &[
    "african", "american", "arabic", "asian", "australian", "austrian", "brazilian", "british",
    "buddhist", "canadian", "catholic", "chinese", "christian", "czech", "danish", "dutch",
    "egyptian", "english", "european", "finnish", "french", "german", "greek", "hindi", "hungarian",
    "indian", "irish", "islamic", "italian", "japanese", "jewish", "korean", "latin", "mexican",
    "moroccan", "muslim", "norwegian", "persian", "polish", "portuguese", "romanian", "russian",
    "scottish", "spanish", "swedish", "swiss", "thai", "turkish", "ukrainian", "vietnamese",
    "welsh",
];

/// Whether a word in lower case begins sentences and is seldom a name.
pub(crate) fn is_common(lower: &str) -> bool {
    COMMON.binary_search(&lower).is_ok()
}

/// Whether a word is written in capitals without being a name.
pub(crate) fn is_loud(lower: &str) -> bool {
    LOUD.binary_search(&lower).is_ok()
}

/// Whether a word is an adjective of a people or a faith, or a language.
pub(crate) fn is_adjective(lower: &str) -> bool {
    ADJECTIVES.binary_search(&lower).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_sorted_for_the_search() {
        for list in [COMMON, LOUD, ADJECTIVES] {
            for pair in list.windows(2) {
                assert!(pair[0] < pair[1], "{pair:?}");
            }
        }
    }
}
