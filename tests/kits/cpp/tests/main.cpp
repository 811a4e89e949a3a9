#include <exception>

#include "testing.hpp"

int main(int count, char** arguments) {
    if (count != 3) {
        std::printf("usage: tests REPOSITORY PREPARED\n");
        return 2;
    }
    testing::repository() = arguments[1];
    testing::prepared() = arguments[2];
    for (const testing::Test& test : testing::tests()) {
        const int before = testing::failures();
        try {
            test.body();
        } catch (const std::exception& error) {
            testing::failures() += 1;
            std::printf("%s threw: %s\n", test.name, error.what());
        }
        std::printf("%s: %s\n", test.name, testing::failures() == before ? "passed" : "failed");
    }
    std::printf("%zu tests, %d failures\n", testing::tests().size(), testing::failures());
    return testing::failures() == 0 ? 0 : 1;
}
