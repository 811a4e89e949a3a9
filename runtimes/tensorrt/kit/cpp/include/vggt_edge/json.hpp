#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace vggt_edge {

/// Why a text is no JSON, or a value is not the one that was asked for. Holds only a few words of the text.
class JsonProblem : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

/// A JSON value: null, bool, whole number, other number, text, list or table.
class Json {
public:
    using List = std::vector<Json>;
    using Table = std::map<std::string, Json>;

    Json() : value_(nullptr) {}
    Json(std::nullptr_t) : value_(nullptr) {}
    Json(bool value) : value_(value) {}
    Json(int value) : value_(std::int64_t{value}) {}
    Json(std::int64_t value) : value_(value) {}
    Json(double value) : value_(value) {}
    Json(const char* value) : value_(std::string(value)) {}
    Json(std::string value) : value_(std::move(value)) {}
    Json(List value) : value_(std::move(value)) {}
    Json(Table value) : value_(std::move(value)) {}

    bool is_null() const { return std::holds_alternative<std::nullptr_t>(value_); }
    bool is_table() const { return std::holds_alternative<Table>(value_); }
    bool is_list() const { return std::holds_alternative<List>(value_); }
    bool is_text() const { return std::holds_alternative<std::string>(value_); }
    bool is_whole() const { return std::holds_alternative<std::int64_t>(value_); }
    bool is_number() const { return is_whole() || std::holds_alternative<double>(value_); }
    bool is_bool() const { return std::holds_alternative<bool>(value_); }

    /// The value as what it is. `JsonProblem` where it is something else.
    bool boolean() const { return as<bool>("true or false"); }
    std::int64_t whole() const { return as<std::int64_t>("a whole number"); }
    double number() const;
    const std::string& text() const { return as<std::string>("a text"); }
    const List& list() const { return as<List>("a list"); }
    const Table& table() const { return as<Table>("a table"); }

    /// A member of a table. `JsonProblem` where it is missing or this is no table.
    const Json& at(const std::string& key) const;

    /// A member of a table, null where it is missing or this is no table.
    const Json* find(const std::string& key) const;

private:
    template <class T>
    const T& as(const char* expected) const {
        if (const T* value = std::get_if<T>(&value_)) return *value;
        throw JsonProblem(std::string("a value is not ") + expected);
    }

    std::variant<std::nullptr_t, bool, std::int64_t, double, std::string, List, Table> value_;
};

/// Bytes of the longest JSON file that the kit reads.
constexpr std::size_t longest_json = 16 << 20;

/// What a text may ask of its reader.
///
/// - most_values: values in the whole text.
/// - distinct_keys: refuses a table that has a key twice; else the last one counts.
struct JsonRules {
    std::size_t most_values = 200'000;
    bool distinct_keys = true;
};

/// Reads one JSON value of which there is only one reading.
///
/// RFC 8259 in UTF-8 without a byte order mark, no key twice, finite numbers, no half of a surrogate pair, at most 32
/// levels, nothing but white space behind the value. Whole numbers beyond 64 bits are read as other numbers.
/// `JsonProblem` for everything else.
Json parse_json(std::string_view text, const JsonRules& rules = {});

/// The text of a value, indented by two, keys in order, with a line end behind it: as Python's kit writes it.
/// `JsonProblem` for NaN and infinity.
std::string json_text(const Json& value);

}  // namespace vggt_edge
