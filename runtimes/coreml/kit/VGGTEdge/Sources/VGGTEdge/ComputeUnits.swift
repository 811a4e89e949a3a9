#if canImport(CoreML)
    import CoreML
    import VGGTEdgeCore

    extension Kit.ComputeUnits {
        /// The same in Core ML's words.
        public var coreML: MLComputeUnits {
            switch self {
            case .all: .all
            case .cpuAndNeuralEngine: .cpuAndNeuralEngine
            case .cpuAndGPU: .cpuAndGPU
            case .cpuOnly: .cpuOnly
            }
        }
    }
#endif
