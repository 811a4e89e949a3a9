#include "vggt_edge/json.hpp"

#include <charconv>
#include <cmath>
#include <system_error>

#include "utf8.hpp"

namespace vggt_edge {

double Json::number() const {
    if (is_whole()) return static_cast<double>(whole());
    return as<double>("a number");
}

const Json& Json::at(const std::string& key) const {
    const Table& members = table();
    const auto place = members.find(key);
    if (place == members.end()) throw JsonProblem(key + " is missing");
    return place->second;
}

const Json* Json::find(const std::string& key) const {
    const Table* members = std::get_if<Table>(&value_);
    if (members == nullptr) return nullptr;
    const auto place = members->find(key);
    return place == members->end() ? nullptr : &place->second;
}

namespace {

constexpr int deepest = 32;

class Reader {
public:
    Reader(std::string_view text, const JsonRules& rules) : text_(text), rules_(rules) {}

    Json whole_text() {
        Json result = value(1);
        skip_space();
        if (at_ < text_.size()) throw problem("something behind the value");
        return result;
    }

private:
    Json value(int depth) {
        if (++values_ > rules_.most_values) throw problem("too many values");
        skip_space();
        switch (peek()) {
            case '{': return table(depth);
            case '[': return list(depth);
            case '"': return string();
            case 't': return literal("true", true);
            case 'f': return literal("false", false);
            case 'n': return literal("null", nullptr);
            default: return number();
        }
    }

    Json table(int depth) {
        Json::Table members;
        items(depth, '}', [&] {
            skip_space();
            std::string key = string();
            if (rules_.distinct_keys && members.count(key) != 0) throw problem("a key given twice");
            skip_space();
            expect(':');
            members.insert_or_assign(std::move(key), value(depth + 1));
        });
        return members;
    }

    Json list(int depth) {
        Json::List result;
        items(depth, ']', [&] { result.push_back(value(depth + 1)); });
        return result;
    }

    /// What stands between a bracket and its end, with commas between.
    template <class Item>
    void items(int depth, char end, Item item) {
        if (depth > deepest) throw problem("more than 32 levels");
        ++at_;
        skip_space();
        if (peek() == end) {
            ++at_;
            return;
        }
        while (true) {
            item();
            skip_space();
            if (peek() == end) break;
            expect(',');
        }
        ++at_;
    }

    Json literal(std::string_view word, Json meaning) {
        if (text_.substr(at_, word.size()) != word) throw problem("an unknown word");
        at_ += word.size();
        return meaning;
    }

    Json number() {
        const std::size_t start = at_;
        if (peek() == '-') ++at_;
        if (peek() == '0') {
            ++at_;
        } else {
            digits();
        }
        const bool is_whole = peek() != '.' && peek() != 'e' && peek() != 'E';
        if (peek() == '.') {
            ++at_;
            digits();
        }
        if (peek() == 'e' || peek() == 'E') {
            ++at_;
            if (peek() == '+' || peek() == '-') ++at_;
            digits();
        }
        const std::string_view word = text_.substr(start, at_ - start);
        std::int64_t whole = 0;
        if (is_whole && parsed(word, whole) == std::errc()) return whole;
        double other = 0;
        const std::errc state = parsed(word, other);
        if (state == std::errc() && std::isfinite(other)) return other;
        // A number that is too small for a double is read as zero, as Python does; one that is too large is none.
        if (state == std::errc::result_out_of_range && is_tiny(word)) return word[0] == '-' ? -0.0 : 0.0;
        throw problem("a number that is too large");
    }

    template <class T>
    static std::errc parsed(std::string_view word, T& value) {
        return std::from_chars(word.data(), word.data() + word.size(), value).ec;
    }

    /// Of a number that no double holds: whether its first digit stands behind the point, or its exponent is negative.
    static bool is_tiny(std::string_view word) {
        const std::size_t exponent = word.find_first_of("eE");
        const std::string_view digits = word.substr(0, exponent);
        const std::size_t point = std::min(digits.find('.'), digits.size());
        const std::size_t first = digits.find_first_of("123456789");
        if (exponent != std::string_view::npos && exponent + 1 < word.size()) {
            if (word[exponent + 1] == '-') return true;
            // 0.00001e999: a positive exponent of more digits than there are zeros decides.
            return false;
        }
        return first != std::string_view::npos && first > point;
    }

    void digits() {
        const std::size_t start = at_;
        while (peek() >= '0' && peek() <= '9') ++at_;
        if (at_ == start) throw problem("no value where one is expected");
    }

    std::string string() {
        expect('"');
        std::string result;
        while (true) {
            if (at_ >= text_.size()) throw problem("a text that does not end");
            const char next = text_[at_++];
            if (next == '"') return result;
            if (next == '\\') {
                escaped(result);
            } else if (static_cast<unsigned char>(next) < 0x20) {
                throw problem("a control character in a text");
            } else {
                result += next;
            }
        }
    }

    void escaped(std::string& result) {
        static constexpr std::string_view kinds = "\"\\/bfnrt", meanings = "\"\\/\b\f\n\r\t";
        const char kind = peek();
        ++at_;
        if (kind == 'u') {
            append_utf8(result, unicode());
            return;
        }
        const std::size_t index = kinds.find(kind);
        if (kind == '\0' || index == std::string_view::npos) throw problem("an unknown escape");
        result += meanings[index];
    }

    /// One character, or the two halves of a pair; never one half alone.
    std::uint32_t unicode() {
        const std::uint32_t first = four_digits();
        if (first < 0xD800 || first > 0xDFFF) return first;
        if (first >= 0xDC00 || text_.substr(at_, 2) != "\\u") throw problem("half a surrogate pair");
        at_ += 2;
        const std::uint32_t second = four_digits();
        if (second < 0xDC00 || second > 0xDFFF) throw problem("half a surrogate pair");
        return 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
    }

    std::uint32_t four_digits() {
        const std::string_view word = text_.substr(std::min(at_, text_.size()), 4);
        std::uint32_t value = 0;
        const auto [end, state] = std::from_chars(word.data(), word.data() + word.size(), value, 16);
        if (word.size() < 4 || state != std::errc() || end != word.data() + 4) {
            throw problem("an escape without four digits");
        }
        at_ += 4;
        return value;
    }

    void skip_space() {
        while (peek() == ' ' || peek() == '\t' || peek() == '\n' || peek() == '\r') ++at_;
    }

    void expect(char wanted) {
        if (at_ >= text_.size() || text_[at_] != wanted) throw problem(std::string("no ") + wanted + " where one is expected");
        ++at_;
    }

    /// The next character; NUL behind the last, which no text can hold outside of an escape.
    char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

    JsonProblem problem(const std::string& what) const { return JsonProblem(what + ", at byte " + std::to_string(at_)); }

    std::string_view text_;
    JsonRules rules_;
    std::size_t at_ = 0;
    std::size_t values_ = 0;
};

void write_text(const std::string& text, std::string& out) {
    static constexpr char hex[] = "0123456789abcdef";
    out += '"';
    for (const char each : valid_utf8(text)) {
        const auto code = static_cast<unsigned char>(each);
        if (each == '"' || each == '\\') {
            out += '\\';
            out += each;
        } else if (code < 0x20 || code == 0x7f) {
            out += "\\u00";
            out += hex[code >> 4];
            out += hex[code & 15];
        } else {
            out += each;
        }
    }
    out += '"';
}

void write_number(double value, std::string& out) {
    if (!std::isfinite(value)) throw JsonProblem("JSON has no NaN and no infinity");
    char buffer[32];
    const auto result = std::to_chars(buffer, buffer + sizeof buffer, value);
    const std::string_view word(buffer, static_cast<std::size_t>(result.ptr - buffer));
    out += word;
    if (word.find_first_of(".e") == std::string_view::npos) out += ".0";
}

void write(const Json& value, const std::string& margin, std::string& out);

template <class Items, class Item>
void write_items(const Items& items, const char* brackets, const std::string& margin, std::string& out, Item item) {
    out += brackets[0];
    bool is_first = true;
    for (const auto& each : items) {
        out += is_first ? "\n" : ",\n";
        out += margin + "  ";
        item(each);
        is_first = false;
    }
    if (!is_first) out += "\n" + margin;
    out += brackets[1];
}

void write(const Json& value, const std::string& margin, std::string& out) {
    const std::string inner = margin + "  ";
    if (value.is_null()) {
        out += "null";
    } else if (value.is_bool()) {
        out += value.boolean() ? "true" : "false";
    } else if (value.is_whole()) {
        out += std::to_string(value.whole());
    } else if (value.is_number()) {
        write_number(value.number(), out);
    } else if (value.is_text()) {
        write_text(value.text(), out);
    } else if (value.is_list()) {
        write_items(value.list(), "[]", margin, out, [&](const Json& each) { write(each, inner, out); });
    } else {
        write_items(value.table(), "{}", margin, out, [&](const auto& member) {
            write_text(member.first, out);
            out += ": ";
            write(member.second, inner, out);
        });
    }
}

}  // namespace

Json parse_json(std::string_view text, const JsonRules& rules) {
    if (!is_utf8(text)) throw JsonProblem("bytes that are no UTF-8");
    return Reader(text, rules).whole_text();
}

std::string json_text(const Json& value) {
    std::string result;
    write(value, "", result);
    return result + "\n";
}

}  // namespace vggt_edge
