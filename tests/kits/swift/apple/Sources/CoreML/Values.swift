// Arrays, features and descriptions of Core ML.
@_exported import CoreVideo
import Foundation
import StandIn

public enum MLMultiArrayDataType: Int, Sendable {
    case double = 0x10040
    case float32 = 0x10020
    case float16 = 0x10010
    case int32 = 0x20020

    var byteCount: Int { (rawValue & 0xFF) / 8 }
}

open class MLMultiArray: NSObject {
    public let dataType: MLMultiArrayDataType
    public let shape: [NSNumber]
    public let strides: [NSNumber]
    private let memory: UnsafeMutableRawBufferPointer

    public convenience init(shape: [NSNumber], dataType: MLMultiArrayDataType) throws {
        var strides = [Int]()
        var step = 1
        for side in shape.reversed() {
            strides.insert(step, at: 0)
            step *= side.intValue
        }
        self.init(shape: shape.map(\.intValue), dataType: dataType, strides: strides)
    }

    public convenience init(shape: [Int], dataType: MLMultiArrayDataType, strides: [Int]) {
        let last = zip(shape, strides).reduce(0) { $0 + ($1.0 - 1) * $1.1 }
        self.init(shape: shape, dataType: dataType, strides: strides, elements: last + 1)
    }

    /// Not Apple's: memory for any number of elements, also too few. NaN everywhere at first, the gaps included.
    public init(shape: [Int], dataType: MLMultiArrayDataType, strides: [Int], elements: Int) {
        self.dataType = dataType
        self.shape = shape.map { NSNumber(value: $0) }
        self.strides = strides.map { NSNumber(value: $0) }
        memory = .allocate(byteCount: max(elements, 1) * dataType.byteCount, alignment: 64)
        memory.initializeMemory(as: UInt8.self, repeating: 0xFF)
        super.init()
        StandIn.shared.count("live MLMultiArray")
    }

    deinit {
        memory.deallocate()
        StandIn.shared.count("live MLMultiArray", -1)
    }

    public func withUnsafeBytes<R>(_ body: (_ ptr: UnsafeRawBufferPointer) throws -> R) rethrows -> R {
        try body(UnsafeRawBufferPointer(memory))
    }

    public func withUnsafeMutableBytes<R>(
        _ body: (_ ptr: UnsafeMutableRawBufferPointer, _ strides: [Int]) throws -> R
    ) rethrows -> R {
        try body(memory, strides.map(\.intValue))
    }
}

@available(*, unavailable)
extension MLMultiArray: @unchecked Sendable {}

open class MLFeatureValue: NSObject {
    public let multiArrayValue: MLMultiArray?
    public let imageBufferValue: CVPixelBuffer?

    public init(multiArray value: MLMultiArray) {
        multiArrayValue = value
        imageBufferValue = nil
    }

    public init(pixelBuffer value: CVPixelBuffer) {
        multiArrayValue = nil
        imageBufferValue = value
    }
}

@available(*, unavailable)
extension MLFeatureValue: @unchecked Sendable {}

public protocol MLFeatureProvider: NSObjectProtocol {
    var featureNames: Set<String> { get }
    func featureValue(for featureName: String) -> MLFeatureValue?
}

open class MLDictionaryFeatureProvider: NSObject, MLFeatureProvider {
    public let dictionary: [String: MLFeatureValue]

    public init(dictionary: [String: Any]) throws {
        self.dictionary = try dictionary.mapValues { value in
            switch value {
            case let value as MLFeatureValue: return value
            case let value as MLMultiArray: return MLFeatureValue(multiArray: value)
            default: throw NSError(domain: "com.apple.CoreML", code: 0)
            }
        }
    }

    public var featureNames: Set<String> { Set(dictionary.keys) }

    public func featureValue(for featureName: String) -> MLFeatureValue? { dictionary[featureName] }
}

open class MLFeatureDescription: NSObject {}

public struct MLModelMetadataKey: RawRepresentable, Hashable, Sendable {
    public let rawValue: String

    public init(rawValue: String) { self.rawValue = rawValue }

    public static let creatorDefinedKey = MLModelMetadataKey(rawValue: "MLModelCreatorDefinedKey")
}

open class MLModelDescription: NSObject {
    public let inputDescriptionsByName: [String: MLFeatureDescription]
    public let outputDescriptionsByName: [String: MLFeatureDescription]
    public let metadata: [MLModelMetadataKey: Any]

    init(inputs: [String], outputs: [String], metadata: [String: String]?) {
        inputDescriptionsByName = inputs.reduce(into: [:]) { $0[$1] = MLFeatureDescription() }
        outputDescriptionsByName = outputs.reduce(into: [:]) { $0[$1] = MLFeatureDescription() }
        self.metadata = metadata.map { [.creatorDefinedKey: $0] } ?? [:]
    }
}
