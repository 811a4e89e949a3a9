// A stand-in; see NvInfer.h.
#pragma once

#include <NvInfer.h>

namespace nvonnxparser {

class IParserError {
public:
    virtual const char* desc() const = 0;
    virtual const char* nodeName() const = 0;

protected:
    virtual ~IParserError() = default;
};

class IParser {
public:
    virtual ~IParser() noexcept = default;
    virtual bool parseFromFile(const char* file, int verbosity) noexcept = 0;
    virtual int getNbErrors() const noexcept = 0;
    virtual const IParserError* getError(int index) const noexcept = 0;
};

IParser* createParser(nvinfer1::INetworkDefinition& network, nvinfer1::ILogger& logger) noexcept;

}  // namespace nvonnxparser
